# What native/bindings.cpp defines.  A test compares names, parameters and what is returned with the module.
# `unhot.kernels.structs` says what each function does.  All arrays are contiguous (C order), and none is converted.

from collections.abc import Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from unhot.kernels.structs import Bags, Segment

_Float = TypeVar("_Float", np.float32, np.float64)  # an overload for each: a table, its slots and what goes with them agree
_Ids: TypeAlias = NDArray[np.int64]
_Law: TypeAlias = tuple[int, NDArray[np.float64], NDArray[np.float64] | None]  # number, parameters, table
_Mask: TypeAlias = NDArray[np.bool_] | None
_Keys: TypeAlias = tuple[int, NDArray[Any], NDArray[Any] | None, _Mask, _Mask]  # unhot.keys.packing.Packed, of several dtypes
_Rows: TypeAlias = tuple[int, int, int, int]  # unhot.keys.maps.Rows
_Coefficients: TypeAlias = NDArray[np.float32] | NDArray[np.float64]

def group(ids: _Ids, rows: _Ids, order: _Ids, starts: _Ids, /) -> int: ...
def outside(ids: _Ids, rows: int, /) -> int: ...
def number_rows(ids: _Ids, counts: Sequence[int], rows: Sequence[int], firsts: Sequence[int], /) -> int: ...
def same(ids: _Ids, others: _Ids, /) -> bool: ...
def last_steps(last: NDArray[np.uint32], rows: _Ids, now: int, steps: _Ids, line: NDArray[np.int32], /) -> int: ...
def matrix_extend(entries: NDArray[np.float64], matrix: NDArray[np.float64], average: float, /) -> None: ...
def matrix_coefficients(
    block: int, entry: NDArray[np.float64], suffix: NDArray[np.float64], steps: _Ids, out: NDArray[_Float], /
) -> None: ...
def measure_extend(
    scale: NDArray[np.float64],
    suffix: NDArray[np.float64],
    polynomial: NDArray[np.float64],
    used: _Ids,
    start: int,
    step: int,
    window: int,
    oldest: int,
    open_: int,
    powers: NDArray[np.float64],
    panel_of: _Ids,
    height: float,
    to_powers: NDArray[np.float64],
    factors: tuple[float, float, float],
    rate: float,
    centres: Sequence[float],
    /,
) -> None: ...
def measure_coefficients(
    block: int,
    scale: NDArray[np.float64],
    suffix: NDArray[np.float64],
    polynomial: NDArray[np.float64],
    used: _Ids,
    steps: _Ids,
    out: NDArray[_Float],
    /,
) -> None: ...
def parse_lines(
    text: NDArray[np.uint8],
    separator: int,
    keyless: bool,
    spaced: bool,
    numbers: NDArray[_Float],
    keys: _Ids,
    odd: _Ids,
    /,
) -> tuple[int, int, int, bool]: ...
def pool(
    values: NDArray[_Float],
    ids: _Ids,
    offsets: _Ids,
    weights: NDArray[np.float64] | None,
    mode: int,
    out: NDArray[_Float],
    /,
) -> None: ...

class StoresFloat32:
    def __init__(
        self, states: list[list[NDArray[np.float32]]], firsts: Sequence[int], last: NDArray[np.uint32] | None, /
    ) -> None: ...
    def pending(self, ids: _Ids, now: int, room: _Ids, line_of_row: NDArray[np.int32], /) -> tuple[int, int]: ...
    def gather(self, ids: _Ids, segments: list[Segment], /) -> None: ...
    def gather_settled(
        self,
        law: _Law,
        rows: _Ids,
        order: _Ids,
        starts: _Ids,
        line_of_row: NDArray[np.int32],
        coefficients: _Coefficients,
        segments: list[Segment],
        /,
    ) -> None: ...
    def pool(self, ids: _Ids, bags: list[Bags], /) -> None: ...
    def pool_settled(
        self,
        law: _Law,
        ids: _Ids,
        rows: _Ids,
        order: _Ids,
        starts: _Ids,
        line_of_row: NDArray[np.int32],
        coefficients: _Coefficients,
        bags: list[Bags],
        /,
    ) -> None: ...
    def settle(
        self, law: _Law, rows: _Ids, line_of_row: NDArray[np.int32], coefficients: _Coefficients, now: int, /
    ) -> None: ...
    def step(
        self,
        law: _Law,
        rows: _Ids,
        order: _Ids,
        starts: _Ids,
        line_of_row: NDArray[np.int32] | None,
        coefficients: _Coefficients | None,
        now: int,
        scalars: NDArray[np.float32],
        segments: list[Segment],
        /,
    ) -> None: ...

class StoresFloat64:
    def __init__(
        self, states: list[list[NDArray[np.float64]]], firsts: Sequence[int], last: NDArray[np.uint32] | None, /
    ) -> None: ...
    def pending(self, ids: _Ids, now: int, room: _Ids, line_of_row: NDArray[np.int32], /) -> tuple[int, int]: ...
    def gather(self, ids: _Ids, segments: list[Segment], /) -> None: ...
    def gather_settled(
        self,
        law: _Law,
        rows: _Ids,
        order: _Ids,
        starts: _Ids,
        line_of_row: NDArray[np.int32],
        coefficients: _Coefficients,
        segments: list[Segment],
        /,
    ) -> None: ...
    def pool(self, ids: _Ids, bags: list[Bags], /) -> None: ...
    def pool_settled(
        self,
        law: _Law,
        ids: _Ids,
        rows: _Ids,
        order: _Ids,
        starts: _Ids,
        line_of_row: NDArray[np.int32],
        coefficients: _Coefficients,
        bags: list[Bags],
        /,
    ) -> None: ...
    def settle(
        self, law: _Law, rows: _Ids, line_of_row: NDArray[np.int32], coefficients: _Coefficients, now: int, /
    ) -> None: ...
    def step(
        self,
        law: _Law,
        rows: _Ids,
        order: _Ids,
        starts: _Ids,
        line_of_row: NDArray[np.int32] | None,
        coefficients: _Coefficients | None,
        now: int,
        scalars: NDArray[np.float64],
        segments: list[Segment],
        /,
    ) -> None: ...

class KeyMap:
    def __init__(self, /) -> None: ...
    def counts(self, /) -> tuple[int, int, int, int]: ...
    def bytes(self, /) -> int: ...
    def find(self, keys: _Keys, rows: _Rows, out: _Ids, /) -> int: ...
    def add(self, keys: _Keys, rows: _Rows, out: _Ids, unique: bool, empty: bool, /) -> tuple[int, int]: ...
    def remove(self, keys: _Keys, rows: _Rows, out: _Ids, /) -> int: ...
    def load(self, keys: _Keys, free: _Ids, /) -> tuple[int, int]: ...
    def take(self, rows: _Ids, /) -> tuple[_Keys, NDArray[np.bool_] | None]: ...
    def take_all(self, /) -> tuple[_Keys, _Ids]: ...

def pack(values: object, missing: list[object], /) -> object: ...  # Packed, or None where Python has to look
def unpack(keys: _Keys, /) -> list[int | str | bytes | None]: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def use(isa: str, /) -> None: ...
def threads() -> int: ...
def set_threads(count: int, /) -> None: ...
def join_openmp(region: int, /) -> None: ...
