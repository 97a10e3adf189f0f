"""The fast set covers what it is said to cover."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from conformance.registry import EVERY, RULES
from selection import cover, product, slow, some

AXES = ("abcdefg", range(5), (True, False), "xyz")


def fast(cases: list[Any]) -> list[tuple[Any, ...]]:
    return [case.values for case in cases if not case.marks]


def test_pairs_and_values_are_covered_by_few() -> None:
    everything = list(itertools.product(*AXES))
    assert [case.values for case in product(*AXES)] == everything
    for by, most in ((1, 7), (2, 45)):
        chosen = fast(product(*AXES, by=by))
        for places in itertools.combinations(range(len(AXES)), by):
            wanted = set(itertools.product(*(AXES[place] for place in places)))
            assert {tuple(case[place] for place in places) for case in chosen} == wanted
        assert len(chosen) <= most  # at least 7 and 35, those of the longest axes


def test_triples_may_be_all_that_there_is() -> None:
    chosen = [case.values for case in cover(list(itertools.product(*AXES)), most=3)]
    for places in itertools.combinations(range(len(AXES)), 3):
        wanted = set(itertools.product(*(AXES[place] for place in places)))
        assert {tuple(case[place] for place in places) for case in chosen} == wanted
    assert len(chosen) <= 130  # of 210; at least 105


def test_cases_that_are_not_all_combinations() -> None:
    """What does not occur need not be covered."""
    cases = [("a", 1), ("a", 2), ("b", 2)]
    assert fast(cover(cases)) == cases
    assert {letter for letter, _ in fast(cover(cases, by=1))} == {"a", "b"}


def test_a_rule_stands_for_its_line_and_its_betas() -> None:
    chosen = fast(product(EVERY, "abcdefgh"))
    assert {rule.id for rule, _ in chosen} == {rule.id for rule in EVERY}
    assert {(rule.axes[0], letter) for rule, letter in chosen} == set(itertools.product((r.axes[0] for r in RULES), "abcdefgh"))
    assert len(chosen) < 1.25 * 8 * len(RULES) < 8 * len(EVERY)


def test_some() -> None:
    assert some([1, 2], [2]) == [pytest.param(1, marks=slow), pytest.param(2)]
    with pytest.raises(AssertionError, match="chosen from the values"):
        some([1, 2], [3])


def test_slow_cases_run_with_all_and_by_name(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makeini("[pytest]\nmarkers = slow: not in the fast set")
    pytester.makepyfile(test_a="import pytest\n@pytest.mark.parametrize('i', [1, pytest.param(2, marks=pytest.mark.slow)])\n"
                               "def test_it(i): ...\n")  # fmt: skip
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=1, deselected=1)
    pytester.runpytest("--all").assert_outcomes(passed=2)
    pytester.runpytest("test_a.py::test_it").assert_outcomes(passed=2)
