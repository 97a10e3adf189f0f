"""The example runs as its first lines say, under torchrun."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from pytorch.distributed.ranks import beside_ddp

EXAMPLE = Path(__file__).parents[3] / "examples" / "sharded_recommender.py"


@beside_ddp
def test_example_under_torchrun() -> None:
    """Two processes learn, each with half of the rows."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1", str(EXAMPLE),
    ]  # fmt: skip
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    error, guess = map(float, re.findall(r"(\d\.\d+)", ended.stdout.split("held-out")[1])[:2])
    assert error < 0.6 * guess
    assert len(re.findall(r"process [01] has 4\d of 81 users", ended.stdout)) == 2
