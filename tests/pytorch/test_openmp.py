"""The native kernels' work in the threads of torch's OpenMP: whose they are, the same bits, forked children.

What a process's threads do is looked at in processes of their own; every wait has a limit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from threaded import LIMIT

from unhot.kernels import name
from unhot.torch import openmp

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or name == "numpy" or "OpenMP" not in torch.__config__.parallel_info(),
    reason="torch's OpenMP is joined on Linux, where the package has its native kernels",
)

TRAINING = """
import os, signal, sys, threading, warnings
import numpy as np
import torch
import unhot.torch

warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of forking with threads
unhot.set_num_threads(2)
torch.set_num_threads(2)

def trained(steps=4):
    generator = torch.Generator().manual_seed(0)
    layer = unhot.torch.Embedding(20_000, 64, _weight=torch.ones(20_000, 64))
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(torch.randint(20_000, (10_000,), generator=generator)).sum().backward()
        optimizer.step()
    return layer.weight.detach().numpy().tobytes()

def threads():
    return set(os.listdir("/proc/self/task"))
"""


def run(body: str, directory: Path | None = None) -> None:
    """Run the body in a process of its own, after TRAINING."""
    result = subprocess.run(
        [sys.executable, "-c", TRAINING + textwrap.dedent(body) + "print('done')"],
        capture_output=True, text=True, timeout=LIMIT, check=False, cwd=directory,
    )  # fmt: skip
    assert result.stdout.endswith("done\n"), result.stdout + result.stderr


def test_torch_has_the_entry() -> None:
    """Without it the kernels take threads of their own, which compete with torch's."""
    assert openmp.parallel_region()


def test_training_starts_no_thread_beside_those_of_torch() -> None:
    """None where torch works alone; and after its own parallel work there are as many as after training."""
    run(
        """
        torch.set_num_threads(1)
        before = threads()
        trained()
        assert threads() == before, (before, threads())
        torch.set_num_threads(2)
        torch.ones(10_000_000).mul_(2).sum()
        before, alone = threads(), before
        assert before > alone, "torch's own work has a second thread"
        trained()
        assert threads() == before, (before, threads())
        """
    )


def test_the_number_of_threads_changes_no_bit() -> None:
    """Torch's fewer or more than ours, ours fewer, and the kernels' own threads, which another thread uses."""
    run(
        """
        found = {trained()}
        for ours, torchs in ((2, 1), (2, 3), (1, 2), (3, 3)):
            unhot.set_num_threads(ours)
            torch.set_num_threads(torchs)
            found.add(trained())
        thread = threading.Thread(target=lambda: found.add(trained()))
        thread.start()
        thread.join(30)
        assert not thread.is_alive()
        assert len(found) == 1
        """
    )


def test_threads_that_train_at_a_time() -> None:
    """The main thread with torch's, two others with the kernels' own."""
    run(
        """
        wanted, found = trained(), []
        others = [threading.Thread(target=lambda: found.append(trained())) for _ in range(2)]
        for thread in others:
            thread.start()
        found.append(trained())
        for thread in others:
            thread.join(30)
            assert not thread.is_alive()
        assert found == [wanted] * 3
        """
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_child_uses_threads_of_its_own(tmp_path: Path) -> None:
    """OpenMP's are not there in a child, and its regions would wait for them for ever."""
    run(
        """
        table = unhot.Table(20_000, 64, optimizer=unhot.Adam(0.1), seed=0)
        ids, grads = np.arange(10_000), np.ones((10_000, 64), np.float32)

        def go_on():
            table.step(ids, grads)
            return table.lookup(ids).tobytes()

        trained()
        go_on()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            with open("found", "wb") as file:
                file.write(go_on())
            os._exit(0 if len(threads()) == 2 else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with open("found", "rb") as file:
            assert file.read() == go_on()
        """,
        tmp_path,
    )
