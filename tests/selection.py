"""Which cases are in the fast set.

`make test` runs the fast set, `make test-all` everything (`pytest --all`); `pytest path/to/test.py::name` runs all cases of the
tests named.  Where the combinations of many values would take hours, all cases are those that cover each *triple* of values
(`most=3`).  A test is in the fast set unless it has the mark `slow`.  It gets one in one of three ways:

* `@slow` above the test, or `pytest.param(..., marks=slow)`: by hand.
* `some(values, fast)`: the values in `fast` are in the fast set, the others are slow.
* `product(...)` and `cover(...)`: of all combinations, those are in the fast set that it takes for each *pair* of values to
  occur (`by=2`), or each value (`by=1`); the others are slow.  So whatever is added to the registry, to the streams or to
  another axis is covered from then on, in combination with each value of every other axis.

A test that goes through many moments or values takes fewer of them in the fast set: the fixture `everything` tells which it is.

    @pytest.mark.parametrize(("rule", "stream"), product(RULES, STREAMS), ids=label)
    def test_something(rule, stream): ...
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import pytest
from subsets import covering

slow = pytest.mark.slow


def product(*axes: Iterable[Any], by: int = 2) -> list[Any]:
    """All combinations of the axes' values, for `pytest.mark.parametrize`; with one axis by default each is in the fast set."""
    return cover(list(itertools.product(*axes)), by)


def cover(cases: Sequence[tuple[Any, ...]], by: int = 2, most: int | None = None) -> list[Any]:
    """The cases, as many of them in the fast set as cover what all of them cover: pairs of values, or with `by=1` values.

    With `most`, cases that it does not take to cover all combinations of so many values are left out altogether.
    """
    if most:
        kept = chosen_to_cover(cases, most)
        cases = [case for i, case in enumerate(cases) if i in kept]
    chosen = chosen_to_cover(cases, by)
    return [pytest.param(*case, marks=() if i in chosen else slow) for i, case in enumerate(cases)]


def chosen_to_cover(cases: Sequence[tuple[Any, ...]], by: int) -> set[int]:
    """The numbers of cases that cover all combinations of `by` values."""
    values = [[part for value in case for part in parts(value)] for case in cases]
    return covering([set(itertools.combinations(enumerate(case), min(by, len(case)))) for case in values])


def some(values: Iterable[Any], fast: Collection[Any]) -> list[Any]:
    """All values, or tuples of them, those in `fast` in the fast set."""
    values = list(values)
    assert all(value in values for value in fast), "the fast set is chosen from the values"
    cases = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*case, marks=() if value in fast else slow) for case, value in zip(cases, values, strict=True)]


def parts(value: Any) -> tuple[str, ...]:
    """The values on the axes that `value` stands for: a rule of the registry for its line, and its betas."""
    return tuple(value.axes) if hasattr(value, "axes") else (repr(value),)


def label(value: Any) -> Any:
    """The part of a test's name that stands for `value`."""
    return getattr(value, "id", None)
