"""Measures the time and the memory of a route, in a process of its own, because peaks would mix otherwise."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from unhot import kernels, memory
from unhot.comparison.results import Cost, in_bytes
from unhot.optimizers import Optimizer

Route = Literal["table", "gather", "dense"]

START = 10.0
"""The seconds a process may need to start."""


@dataclass(frozen=True)
class Job:
    """What one process measures."""

    route: Route
    rows: int
    dim: int
    batch: int
    optimizer: Optimizer
    patience: float
    seed: int
    ids: npt.NDArray[np.int64] | None = None
    """The column to draw batches from; None for ids drawn uniformly from all rows."""
    threads: int = 0


def measure_cost(job: Job) -> Cost:
    """The cost of a training step (forward, gradient, update), or the reason why it was not run.

    Args:
        job: the route and what to train.

    Raises: RuntimeError with the process's own error if the process fails.

    Example:
        >>> import unhot
        >>> from unhot.comparison.cost import Job, measure_cost
        >>> measure_cost(Job("table", 100, 4, 8, unhot.Adam(), patience=0.1, seed=0)).steps > 0
        True
    """
    refusal = too_large(job)
    if refusal:
        return Cost(not_run=refusal)
    # A learning rate that is a callable may not be picklable, and does not change what a step costs.
    job = replace(
        job,
        optimizer=replace(job.optimizer, learning_rate=job.optimizer.read(1).rate),
        threads=kernels.get_num_threads(),
    )
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-c", "from unhot.comparison.worker import main; main()"],
            input=pickle.dumps(job),
            capture_output=True,
            timeout=START + job.patience,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Cost(not_run=f"no step ended within {job.patience:g} s")
    if ended.returncode < 0:
        return Cost(not_run=f"the process was ended by signal {-ended.returncode}, most likely for want of memory")
    if ended.returncode:
        raise RuntimeError(f"measuring the {job.route} route failed:\n{ended.stderr.decode()}")
    return Cost(**json.loads(ended.stdout))


def too_large(job: Job) -> str:
    """Why a dense route cannot run, or an empty string. The table raises its own error."""
    free = memory.available()
    if job.route == "table" or free is None:
        return ""
    matrix = 4 * job.batch * job.rows if job.route == "dense" else 0
    slots = len(job.optimizer.dense_slots()) * job.optimizer.dense_slot_width(job.dim)
    trained = 4 * job.rows * (2 * job.dim + slots)
    if matrix + trained <= free:
        return ""
    what, size = (
        ("the one-hot matrix alone needs", matrix) if matrix > trained else ("weights, gradient and slots need", trained)
    )
    return f"{what} {in_bytes(size)}; {in_bytes(free)} are free"


def _environment() -> dict[str, str]:
    """This process's, but with NumPy free to choose its kernels (some machines slow it down by OPENBLAS_CORETYPE)."""
    kept = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    return {**kept, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
