"""What the front ends report: the same words everywhere, and the names of version 0.1 go on working."""

from __future__ import annotations

import pytest

from unhot.reports import Conversion, TableReport, TrainingReport


def test_words() -> None:
    assert repr(Conversion(None)) == "replaced: nothing"
    conversion = Conversion(None, {"a": "Embedding", "b": "Dense"}, {"c": "it is odd", "d": "so is it"}, compiled=True)
    assert repr(conversion).splitlines() == [
        "replaced: a (Embedding), b (Dense)",
        "left alone: c: it is odd",
        "left alone: d: so is it",
        "compile it: the given model was compiled",
    ]


def test_what_0_1_returned() -> None:
    """`unhot.torch` had names of layers only; `unhot.keras` had what they were, and returned the model beside the report."""
    with pytest.warns(DeprecationWarning, match="`swapped` is deprecated"):
        assert Conversion(None, {"a": "Embedding"}, in_place=True).swapped == ["a"]
    conversion = Conversion("a model", {"a": "Embedding"})
    with pytest.warns(DeprecationWarning, match="`swapped` is deprecated"):
        assert conversion.swapped == {"a": "Embedding"}
    with pytest.warns(DeprecationWarning, match=r"conversion\.model") as told:
        model, report = conversion
    assert model == "a model"
    assert report is conversion
    assert told[0].filename == __file__


def test_how_tables_are_trained() -> None:
    assert repr(TrainingReport()) == "no tables"
    report = TrainingReport((TableReport("a", 10, 2, True), TableReport("b", 2000, 3, False, "it is frozen")))
    assert repr(report).splitlines() == ["a (10 x 2): by rows", "b (2,000 x 3): densely: it is frozen"]
    assert report.by_rows == ["a"]
    assert report.densely == {"b": "it is frozen"}
