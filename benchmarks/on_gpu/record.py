"""What gpu.py writes: one JSON file, rewritten whenever there is something new. A run that ends early leaves what it has."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class Record:
    """The results so far, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def save(self) -> None:
        """Write the file anew, whole at every moment."""
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.data, indent=1) + "\n")
        os.replace(beside, self.path)


class Budget:
    """The seconds that a part may take. It asks before it begins something, and ends what it has begun."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begun = time.monotonic()

    @property
    def used(self) -> float:
        return time.monotonic() - self.begun

    @property
    def out(self) -> bool:
        return self.used > self.seconds


def describe(device: str) -> dict[str, Any]:
    """The device, and the versions that bear on the figures."""
    import numpy as np
    import torch

    import unhot
    from unhot import kernels

    told: dict[str, Any] = {
        "device": device,
        "versions": {
            "python": sys.version.split()[0], "numpy": np.__version__, "torch": torch.__version__, "unhot": unhot.__version__,
        },
        "kernels_of_histories": kernels.name,
    }  # fmt: skip
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        told |= {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        told["capability"] = f"{properties.major}.{properties.minor}"
    return told


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:600]
