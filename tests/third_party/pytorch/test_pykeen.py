"""PyKEEN's TransE: its pipeline, which makes two optimizers, and its training loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("first", ["pykeen", "unhot"])
def test_pykeen(first: str, tmp_path: Path) -> None:
    """Whichever of them is imported first, which takes a process of its own; "adam" still means torch's."""
    program = Path(__file__).with_name("pykeen_in_order.py")
    environment = {**os.environ, "PYSTOW_HOME": str(tmp_path)}  # where pykeen would keep data sets
    run = subprocess.run([sys.executable, str(program), first], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split("\n")[-3:-1] == ["by_pipeline: the same", "by_loop: the same"]
