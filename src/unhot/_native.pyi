# What native/bindings.cpp defines.  A test compares names, parameters and what is returned with the module.
# `unhot.kernels.reference` says what each function does.  All arrays are contiguous (C order), and none is converted.

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

_Float = TypeVar("_Float", np.float32, np.float64)  # an overload for each: a table, its slots and what goes with them agree
_Ids: TypeAlias = NDArray[np.int64]
_Rule: TypeAlias = tuple[int, NDArray[np.float64], NDArray[np.float64] | None]  # law, parameters, table

def group(ids: _Ids, last: NDArray[np.uint32] | None, rows: _Ids, order: _Ids, starts: _Ids, /) -> int: ...
def outside(ids: _Ids, rows: int, /) -> int: ...
def same(ids: _Ids, others: _Ids, /) -> bool: ...
def last_steps(last: NDArray[np.uint32], rows: _Ids, now: int, steps: _Ids, which: NDArray[np.int32], /) -> int: ...
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
def gather(weights: NDArray[_Float], ids: _Ids, out: NDArray[_Float], /) -> None: ...
def gather_settled(
    rule: _Rule,
    weights: NDArray[_Float],
    slots: list[NDArray[_Float]],
    rows: _Ids,
    order: _Ids,
    starts: _Ids,
    which: NDArray[np.int32] | None,
    coefficients: NDArray[np.float32] | NDArray[np.float64] | None,
    out: NDArray[_Float],
    /,
) -> None: ...
def settle(
    rule: _Rule,
    weights: NDArray[_Float],
    slots: list[NDArray[_Float]],
    last: NDArray[np.uint32],
    rows: _Ids,
    which: NDArray[np.int32] | None,
    coefficients: NDArray[np.float32] | NDArray[np.float64] | None,
    now: int,
    /,
) -> None: ...
def step(
    rule: _Rule,
    weights: NDArray[_Float],
    slots: list[NDArray[_Float]],
    last: NDArray[np.uint32] | None,
    rows: _Ids,
    order: _Ids,
    starts: _Ids,
    which: NDArray[np.int32] | None,
    coefficients: NDArray[np.float32] | NDArray[np.float64] | None,
    now: int,
    scalars: NDArray[_Float],
    gradients: NDArray[_Float],
    /,
) -> None: ...
def pool(
    values: NDArray[_Float],
    ids: _Ids,
    offsets: _Ids,
    weights: NDArray[np.float64] | None,
    mode: int,
    out: NDArray[_Float],
    /,
) -> None: ...
def isa() -> str: ...
def isas() -> list[str]: ...
def use(isa: str, /) -> None: ...
def threads() -> int: ...
def set_threads(count: int, /) -> None: ...
def join_openmp(region: int, /) -> None: ...
