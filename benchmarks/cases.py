"""What is measured: one case is one rival at one task on one size of table; and the lists that `make bench` runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

MAIN_ROWS, MAIN_DIM, MAIN_IDS = 1_000_000, 64, 4_096
LOOKUP_IDS = 65_536
ROWS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
DIMS = (16, 64, 128)
IDS = (4_096, 65_536)
DISTRIBUTIONS = ("zipf", "uniform")
THREADS = 2
TABLES = 26
"""In one model, where many are measured."""


@dataclass(frozen=True)
class Case:
    """One measurement.

    `task` is "step" (lookup and update), "loop" (the same in torch's training loop, where a loss gives the gradients), "fit"
    (a step of Keras's `fit`), "arrays" (the same on torch, of arrays in place of a loader), "beside" (such steps and the stock
    layer's, by turns in one process), "lookup" (of settled rows), "coefficients" (their share of a step), "overhead" (of
    unhot.torch in torch's loop over unhot's own lookup and step there) or "tables" (the same, of a model with many tables).
    """

    rival: str
    variant: str
    task: str = "step"
    rows: int = MAIN_ROWS
    dim: int = MAIN_DIM
    ids: int = MAIN_IDS
    distribution: str = "zipf"
    threads: int = THREADS

    @property
    def workload(self) -> tuple[str, int, int, int, str]:
        """Cases that agree in this are compared with each other."""
        return (
            self.task if self.task in ("loop", "lookup", "tables", "fit", "arrays") else "step",
            self.rows,
            self.dim,
            self.ids,
            self.distribution,
        )

    @property
    def label(self) -> str:
        threads = "" if self.threads == THREADS else f", {self.threads} thread" + "s" * (self.threads != 1)
        return f"{KINDS[self.rival, self.variant].label}{threads}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Kind:
    """What a rival's variant is called, what it computes, and what it needs.

    `rule` names the replay that its result is checked against (replay.py), `tables` how many arrays of the table's size it
    holds at its peak, and `dense` whether a step passes over the whole table, so that it costs the same in any state.
    """

    label: str
    rule: str
    tables: float
    dense: bool = False


KINDS: dict[tuple[str, str], Kind] = {
    ("unhot", "adam"): Kind("unhot Adam", "adam_keras", 3),
    ("unhot", "adam_torch"): Kind("unhot Adam, torch's form", "adam_torch", 3),
    ("unhot", "adagrad"): Kind("unhot Adagrad", "adagrad", 2),
    ("unhot", "sgd"): Kind("unhot SGD", "sgd", 1),
    ("unhot", "fresh"): Kind("unhot lookup", "take", 1),
    ("unhot", "out"): Kind("unhot lookup, out=", "take", 1),
    ("unhot_torch", "adam"): Kind("unhot.torch Adam", "adam_torch", 4),
    ("unhot_torch", "adagrad"): Kind("unhot.torch Adagrad", "adagrad", 3),
    ("unhot_torch", "sgd"): Kind("unhot.torch SGD", "sgd", 2),
    ("unhot_jax", "adam"): Kind("unhot.jax Adam", "adam_keras", 5),
    ("unhot_masked", "adam"): Kind("masked Adam in unhot's kernels", "adam_masked", 3),
    ("torch", "adam"): Kind("torch Adam", "adam_torch", 6, dense=True),
    ("torch", "adam_fused"): Kind("torch Adam, fused=True", "adam_torch", 4, dense=True),
    ("torch", "sparse_adam"): Kind("torch SparseAdam", "adam_masked", 3),
    ("torch", "adagrad"): Kind("torch Adagrad, sparse", "adagrad", 2),
    ("torch", "sgd"): Kind("torch SGD, sparse", "sgd", 1),
    ("torch", "fresh"): Kind("torch.nn.functional.embedding", "take", 1),
    ("torch", "out"): Kind("torch.index_select, out=", "take", 1),
    ("fbgemm", "sgd"): Kind("FBGEMM SGD", "sgd", 1),
    ("fbgemm", "adagrad"): Kind("FBGEMM Adagrad", "adagrad", 2),
    ("fbgemm", "rowwise_adagrad"): Kind("FBGEMM row-wise Adagrad", "rowwise_adagrad", 1),
    ("fbgemm", "fresh"): Kind("FBGEMM lookup", "take", 1),
    ("keras", "torch"): Kind("Keras Adam on torch", "adam_keras", 7, dense=True),
    ("keras", "jax"): Kind("Keras Adam on JAX", "adam_keras", 6, dense=True),
    ("keras", "tensorflow"): Kind("Keras Adam on TensorFlow", "adam_keras_tensorflow", 6, dense=True),
    ("unhot_keras", "torch"): Kind("fit on torch, unhot.keras", "adam_keras", 4),
    ("unhot_keras", "jax"): Kind("fit on JAX, unhot.keras", "adam_keras", 4),
    ("unhot_keras", "tensorflow"): Kind("fit on TensorFlow, unhot.keras", "adam_keras", 4),
    ("keras_fit", "torch"): Kind("fit on torch, Keras's Embedding", "adam_keras", 7, dense=True),
    ("keras_fit", "jax"): Kind("fit on JAX, Keras's Embedding", "adam_keras", 6, dense=True),
    ("keras_fit", "tensorflow"): Kind("fit on TensorFlow, Keras's Embedding", "adam_keras_tensorflow", 6, dense=True),
    ("keras_empty", "torch"): Kind("fit on torch, one weight", "none", 0, dense=True),
    ("keras_empty", "jax"): Kind("fit on JAX, one weight", "none", 0, dense=True),
    ("keras_empty", "tensorflow"): Kind("fit on TensorFlow, one weight", "none", 0, dense=True),
    ("numpy", "adam"): Kind("dense Adam in NumPy", "adam_keras", 6, dense=True),
    ("numpy", "fresh"): Kind("numpy.take", "take", 1),
    ("numpy", "out"): Kind("numpy.take, out=", "take", 1),
    ("floor", "adam"): Kind("memory floor, Adam", "none", 0),
    ("floor", "adagrad"): Kind("memory floor, Adagrad", "none", 0),
    ("floor", "sgd"): Kind("memory floor, SGD", "none", 0),
    ("floor", "lookup"): Kind("memory floor, lookup", "none", 0),
}

FLOOR_TABLE_BYTES = 512 << 20
"""Two arrays of half this are copied to measure the bandwidth, and rows are drawn from one of this size."""


def bytes_needed(case: Case) -> int:
    """Memory at the peak, with the framework itself, the ids and the gradients."""
    table = case.rows * case.dim * 4
    if case.rival == "floor":
        return 2 * FLOOR_TABLE_BYTES + (1 << 28)
    workload = case.rows * 16 + 24 * case.ids * (case.dim * 4 + 8)
    models = {"overhead": 4, "tables": 3 * TABLES}.get(case.task, 1)
    return int(table * KINDS[case.rival, case.variant].tables) * models + workload + (3 << 28)


STEPS = [
    *(("unhot", variant) for variant in ("adam", "adam_torch", "adagrad", "sgd")),
    ("unhot_masked", "adam"),
    ("unhot_jax", "adam"),
    *(("torch", variant) for variant in ("adam", "adam_fused", "sparse_adam", "adagrad", "sgd")),
    *(("fbgemm", variant) for variant in ("sgd", "adagrad", "rowwise_adagrad")),
    *(("keras", variant) for variant in ("torch", "jax", "tensorflow")),
    *(("floor", variant) for variant in ("adam", "adagrad", "sgd")),
]
LOOPS = [
    *(("unhot_torch", variant) for variant in ("adam", "adagrad", "sgd")),
    *(("torch", variant) for variant in ("adam", "sparse_adam", "adagrad", "sgd")),
    *(("fbgemm", variant) for variant in ("adagrad", "sgd")),
]
LOOKUPS = [
    ("unhot", "fresh"), ("unhot", "out"), ("torch", "fresh"), ("torch", "out"), ("fbgemm", "fresh"),
    ("numpy", "fresh"), ("numpy", "out"), ("floor", "lookup"),
]  # fmt: skip
# Waiting for a second thread can cost more than it brings at these sizes, so FBGEMM and unhot are also given one.
LOOPS_ALONE = [("unhot_torch", "adagrad"), ("fbgemm", "adagrad")]
ALONE = [("unhot", "adam"), ("unhot", "adagrad"), ("unhot", "sgd"), ("fbgemm", "sgd"), ("fbgemm", "adagrad")]


FITS = [(rival, backend) for backend in ("torch", "jax", "tensorflow") for rival in ("unhot_keras", "keras_fit", "keras_empty")]

# The speed of a machine that others share comes and goes in spells of seconds, so what is close to its target is measured
# in more rounds, and what no target is about in fewer.
OFTEN = {("unhot_torch", "adam"), ("unhot", "adam"), ("unhot", "adam_torch"), ("unhot_masked", "adam")}
TWICE = {("torch", "adam_fused"), ("torch", "adam"), ("fbgemm", "rowwise_adagrad")}
ONCE = {("keras", "torch"), ("keras", "jax"), ("keras", "tensorflow"), ("torch", "adagrad"), ("torch", "sgd")}
MAIN = Case("unhot", "adam")
CHART = [replace(MAIN, rival="torch", task="loop"), replace(MAIN, rival="torch", variant="sparse_adam", task="loop"),
         replace(MAIN, rival="unhot_torch", task="loop")]  # fmt: skip
"""The lines of the chart: time of a step against rows, in torch's training loop."""

FRONT_ENDS = {
    "PyTorch": (CHART[0], CHART[2]),
    "Keras on torch": (replace(MAIN, rival="keras_fit", variant="torch", task="fit"),
                       replace(MAIN, rival="unhot_keras", variant="torch", task="fit")),
    "Keras on JAX": (replace(MAIN, rival="keras_fit", variant="jax", task="fit"),
                     replace(MAIN, rival="unhot_keras", variant="jax", task="fit")),
    "Keras on TensorFlow": (replace(MAIN, rival="keras_fit", variant="tensorflow", task="fit"),
                            replace(MAIN, rival="unhot_keras", variant="tensorflow", task="fit")),
    "JAX": (replace(MAIN, rival="keras", variant="jax"), replace(MAIN, rival="unhot_jax")),
    "NumPy": (replace(MAIN, rival="numpy"), MAIN),
}  # fmt: skip
"""What a front end replaces, and the front end."""


def rounds(name: tuple[str, str]) -> int:
    """How often a rival is measured on the main size."""
    return 1 if name in ONCE else 2 if name in TWICE else 5 if name in OFTEN else 3


def quick() -> Iterator[tuple[Case, int]]:
    """The cases of the chart, of when it pays, and of the targets; each once, with the number of its rounds."""
    wanted: dict[Case, int] = {}
    for case, times in (*against_rows(), *of_targets()):
        wanted[case] = max(times, wanted.get(case, 0))
    yield from wanted.items()


def against_rows() -> Iterator[tuple[Case, int]]:
    """The chart, and each front end against what it replaces, by rows."""
    for rows in ROWS:
        for case in CHART:
            yield replace(case, rows=rows), 5 if rows <= MAIN_ROWS else 2
        for pair in FRONT_ENDS.values():
            for case in pair:
                yield replace(case, rows=rows), 3 if rows <= MAIN_ROWS else 1


def of_targets() -> Iterator[tuple[Case, int]]:
    for name in STEPS:
        yield replace(MAIN, rival=name[0], variant=name[1]), rounds(name)
    for rival, variant in ALONE:
        yield replace(MAIN, rival=rival, variant=variant, threads=1), 3
    for variant in ("adam", "adam_torch"):
        yield replace(MAIN, variant=variant, task="coefficients"), 5
    for rival, variant in LOOPS:
        yield replace(MAIN, rival=rival, variant=variant, task="loop"), rounds((rival, variant))
    for rival, variant in LOOPS_ALONE:
        yield replace(MAIN, rival=rival, variant=variant, task="loop", threads=1), 3
    in_torch = replace(MAIN, rival="unhot_torch")
    yield replace(in_torch, task="overhead"), 5
    yield replace(in_torch, task="tables", rows=100_000), 3
    yield from fits()
    for distribution in DISTRIBUTIONS:
        lookup = replace(MAIN, task="lookup", ids=LOOKUP_IDS, distribution=distribution)
        for rival, variant in LOOKUPS:
            yield replace(lookup, rival=rival, variant=variant), 1 if rival in ("numpy", "fbgemm") else 5
    for rows in (100_000, 10_000_000):
        case = replace(MAIN, rows=rows, distribution="uniform")
        yield case, 3
        yield replace(case, rival="floor"), 1


def fits() -> Iterator[tuple[Case, int]]:
    """Keras's `fit`: what its loop costs, arrays in place of a loader, and small tables by turns in one process."""
    for rival, backend in FITS:
        case = replace(MAIN, rival=rival, variant=backend, task="fit")
        yield case, 3
        if backend == "torch":
            yield replace(case, task="arrays"), 3
        if rival == "unhot_keras":
            yield replace(case, rows=10_000, task="beside"), 3


def full() -> Iterator[tuple[Case, int]]:
    """The quick list, and every rival on every size."""
    seen = set()
    for case, times in quick():
        seen.add(case)
        yield case, times
    for rows in ROWS:
        for dim in DIMS:
            for ids in IDS:
                for distribution in DISTRIBUTIONS:
                    size = Case("unhot", "adam", "step", rows, dim, ids, distribution)
                    every = [replace(size, rival=rival, variant=variant) for rival, variant in STEPS]
                    every += [replace(size, rival=rival, variant=variant, task="loop") for rival, variant in LOOPS]
                    every += [replace(size, rival=rival, variant=variant, task="lookup") for rival, variant in LOOKUPS]
                    for case in every:
                        if case not in seen:
                            yield case, 1
