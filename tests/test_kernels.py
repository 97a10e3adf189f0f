"""The native kernels against the NumPy ones: the same bits, for every family, instruction set and number of threads.

Where a rule takes a logarithm, an exponential or a power (PyTorch's Adamax at the crossing, Ftrl with shrinkage or another
power than -0.5), the two may differ by the rounding of those functions; there they are compared within it.
"""

from __future__ import annotations

import copy
import ctypes
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threaded import together

import unhot
from unhot import atomic
from unhot.engine import Batch, Engine
from unhot.kernels import reference
from unhot.kernels.structs import MODES, Bags, PendingRows, Segment, StepNumbers
from unhot.store import Store

native = pytest.importorskip("unhot.kernels.native") if unhot.kernels.name == "numpy" else unhot.kernels.active
_native = native._native

RULES = {
    "sgd": lambda: unhot.SGD(0.1),
    "sgd decay": lambda: unhot.SGD(0.1, weight_decay=0.01),
    "sgd momentum": lambda: unhot.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd coupled": lambda: unhot.SGD(0.1, momentum=0.9, weight_decay=0.03, dampening=0.3, convention="torch"),
    "adagrad": lambda: unhot.Adagrad(0.1),
    "adagrad decay": lambda: unhot.Adagrad(0.1, weight_decay=0.01),
    "rowwise adagrad": lambda: unhot.RowwiseAdagrad(0.1),
    "rowwise adagrad decay": lambda: unhot.RowwiseAdagrad(0.1, weight_decay=0.01),
    "rmsprop": lambda: unhot.RMSprop(0.01, weight_decay=0.01),
    "rmsprop momentum": lambda: unhot.RMSprop(0.01, momentum=0.8, convention="torch"),
    "rmsprop centered": lambda: unhot.RMSprop(0.01, centered=True),
    "rmsprop centered momentum": lambda: unhot.RMSprop(0.01, centered=True, momentum=0.8),
    "adadelta": lambda: unhot.Adadelta(1.0),
    "adam": lambda: unhot.Adam(0.01),
    "adam torch": lambda: unhot.Adam(0.01, convention="torch"),
    "adamw amsgrad": lambda: unhot.AdamW(0.01, amsgrad=True),
    "adamw panels": lambda: unhot.AdamW(0.01, beta_1=0.95, beta_2=0.95, convention="torch"),
    "nadam": lambda: unhot.NAdam(0.01, weight_decay=0.1),
    "radam": lambda: unhot.RAdam(0.01, weight_decay=0.1, decoupled_weight_decay=True),
    "adamax": lambda: unhot.Adamax(0.01, weight_decay=0.1),
    "adamax torch": lambda: unhot.Adamax(0.01, convention="torch"),
    "lion": lambda: unhot.Lion(0.01, weight_decay=0.1),
    "ftrl": lambda: unhot.Ftrl(0.1, l1_regularization_strength=0.01, beta=0.5),
    "ftrl power": lambda: unhot.Ftrl(0.1, learning_rate_power=-0.3),
    "ftrl shrinkage": lambda: unhot.Ftrl(0.1, l2_shrinkage_regularization_strength=0.01, weight_decay=0.1),
}
ROUNDED_FUNCTIONS = {"adamax torch", "ftrl power", "ftrl shrinkage"}


def trained(rule: str, dtype: str, rows: int, dim: int, steps: int, seed: int) -> unhot.Table:
    """A table with deferred steps: rows touched at different times, some never."""
    generator = np.random.default_rng(seed)
    table = unhot.Table(rows, dim, optimizer=RULES[rule](), dtype=dtype, seed=seed)
    for _ in range(steps):
        ids = generator.integers(0, max(1, rows - 1), size=generator.integers(0, 4))
        scale = 10.0 ** generator.uniform(-8, 3)
        table.step(ids, (generator.normal(size=(len(ids), dim)) * scale).astype(dtype))
    return table


def compare(rule: str, dtype: str, ours: list[np.ndarray], theirs: list[np.ndarray], before: list[np.ndarray]) -> None:
    """The same bits, or what functions that are rounded in two ways allow; `before` is the state that was stepped."""
    if rule not in ROUNDED_FUNCTIONS:
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, other)
        return
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    allowed = [64 * eps * np.abs(other) + 64 * tiny for other in theirs]
    if rule.startswith("ftrl"):
        # z = z + g + .. - (n'^-p - n^-p) w / rate: its terms differ by some units, and may cancel. w is z over n'^-p / rate.
        optimizer = RULES[rule]()
        w, _, z = np.abs(theirs[1:4] if len(theirs) == 7 else before).astype(np.float64)
        divisor = theirs[-2].astype(np.float64) ** -optimizer.learning_rate_power / optimizer.learning_rate
        terms = 8 * eps * (z + w * divisor)
        allowed[-1] = allowed[-1] + terms
        allowed[-3] = allowed[-3] + terms / divisor
    for mine, other, most in zip(ours, theirs, allowed, strict=True):
        np.testing.assert_array_less(np.abs(mine - other), most)


@settings(deadline=None, max_examples=60)
@given(
    rule=st.sampled_from(sorted(RULES)),
    dtype=st.sampled_from(["float32", "float64"]),
    rows=st.integers(1, 12),
    dim=st.sampled_from([1, 3, 8, 17, 64]),
    steps=st.integers(0, 40),
    seed=st.integers(0, 2**16),
    isa=st.sampled_from(_native.isas()),
)
def test_families_match_the_numpy_rules(rule: str, dtype: str, rows: int, dim: int, steps: int, seed: int, isa: str) -> None:
    """Lookup, settle and step of a table with deferred rows give the NumPy rules' bits on every instruction set."""
    check_families(rule, dtype, rows, dim, steps, seed, isa)


@pytest.mark.parametrize("isa", _native.isas())
@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_on_every_instruction_set(rule: str, isa: str) -> None:
    for dtype, rows in itertools.product(("float32", "float64"), (12, 3)):  # in the smaller table ids repeat often
        check_families(rule, dtype, rows, 17, 40, 0, isa)


def check_families(rule: str, dtype: str, rows: int, dim: int, steps: int, seed: int, isa: str) -> None:
    table = trained(rule, dtype, rows, dim, steps, seed)
    generator = np.random.default_rng(seed + 1)
    ids = generator.integers(0, rows, size=7)
    gradients = generator.normal(size=(7, dim)).astype(dtype)
    before = _native.isa()
    results = []
    try:
        for kernels in (native, reference):
            _native.use(isa)
            results.append(_all_kernels(kernels, copy.deepcopy(table), ids, gradients))
    finally:
        _native.use(before)
    compare(rule, dtype, *results, table._engine.stores[0].state)


def _all_kernels(kernels, table: unhot.Table, ids: np.ndarray, gradients: np.ndarray) -> list[np.ndarray]:
    """What each kernel makes of the table: lookups, then settled rows, then the state after a step."""
    engine = table._engine
    clock, now, (store,) = engine.clock, engine.now, engine.stores
    rows = kernels.stores([store.state], [0], engine.last)
    looked_up = np.empty_like(gradients)
    pending = None
    if engine.last is None:
        plan = kernels.group(ids)
        rows.gather(ids, [Segment(0, looked_up)])
    else:
        plan, line_of_row, steps = rows.pending(ids, now)
        pending = PendingRows(plan, line_of_row, clock.coefficients(steps))
        rows.gather_settled(clock.formula(), pending, [Segment(0, looked_up)])
        settled, marks = [array.copy() for array in store.state], engine.last.copy()
        atomic.together(kernels.stores([settled], [0], marks).settle(clock.formula(), pending, now))
        assert (marks[plan.rows] == now).all()
        np.testing.assert_array_equal(settled[0][ids], looked_up)
    step = StepNumbers(now + 1, clock.scalars(now + 1, table.optimizer.read(now + 1)))
    atomic.together(rows.step(clock.formula(), plan, pending, step, [Segment(0, gradients)]))
    return [looked_up, *([] if engine.last is None else settled), *store.state]


@pytest.mark.parametrize("rule", ["adam", "adamax torch", "sgd momentum", "adagrad"])
@pytest.mark.parametrize("kernels", [native, reference], ids=["native", "numpy"])
def test_many_stores_are_one_table(rule: str, kernels: Any) -> None:
    """Several stores in one call, features in any order, vectors apart or in one array: the bits of one table of all rows."""
    generator = np.random.default_rng(0)
    dim, sizes, features = 4, (500, 300, 900), (1, 0, 2, 1)  # which store each segment of ids names
    firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    one = trained(rule, "float32", sum(sizes), dim, 20, 0)
    engine = one._engine
    states = [[array[a : a + n].copy() for array in engine.stores[0].state] for a, n in zip(firsts, sizes, strict=True)]
    last = None if engine.last is None else engine.last.copy()
    many = Engine([Store(state[0], tuple(state[1:]), int(a), int(a)) for state, a in zip(states, firsts, strict=True)])
    many.kernels = kernels
    many.__dict__.update(
        optimizer=engine.optimizer, clock=copy.deepcopy(engine.clock), now=engine.now, last=last, defers=engine.defers
    )
    many.__dict__.update(has_deferred_steps=engine.has_deferred_steps, _swept=engine._swept, _rows=many._made())
    for turn in range(30):  # with a sweep among them
        ids = [generator.integers(0, 9, 6) + firsts[s] + turn * 50 % (sizes[s] - 9) for s in features]
        flat, wide = np.concatenate(ids), np.full((6, 4 * dim + 1), np.nan, np.float32)
        outs = [Segment(s, wide[:, k * dim : (k + 1) * dim]) for k, s in enumerate(features)]
        many.read(flat, outs)
        for segment, named in zip(outs, ids, strict=True):
            np.testing.assert_array_equal(segment.vectors, one.lookup(named))
        assert np.isnan(wide[:, -1]).all()
        # Bags of 1, 0, 3 and 2 ids of each feature, with factors of some.
        starts, bag = np.array([0, 1, 1, 4, 6]), np.array([0, 2, 2, 2, 3, 3])
        factors = generator.normal(size=24)
        pooled = np.full((4, 4 * dim + 1), np.nan, np.float32)
        bags = [
            Bags(s, pooled[:, k * dim : (k + 1) * dim], starts + 6 * k, factors if k % 2 else None, MODES["sum"])
            for k, s in enumerate(features)
        ]
        many.pool(flat, bags)
        for k, (part, named) in enumerate(zip(bags, ids, strict=True)):
            own = factors[6 * k : 6 * k + 6] if k % 2 else None
            np.testing.assert_array_equal(part.vectors, one.bag(named, starts[:-1], weights=own))
        gradients = generator.normal(size=(6, 4 * dim + 1)).astype(np.float32)
        parts, values = [], []
        for k, s in enumerate(features):
            vectors = gradients[:, k * dim : (k + 1) * dim]
            parts.append(Segment(s, vectors, bag if turn % 2 else None))
            values.append(vectors[bag] if turn % 2 else vectors)
        many.step(lambda flat=flat, parts=parts: Batch(flat, parts), lambda: many.begin_step(one.optimizer))
        one.step(flat, np.concatenate(values))
    many.settle_all()
    array = one.array
    for store in many.stores:
        np.testing.assert_array_equal(store.weights, array[store.first : store.stop])


@given(ids=st.lists(st.integers(0, 2**40) | st.integers(0, 5), max_size=60))
def test_group(ids: list[int]) -> None:
    """The plan holds each distinct id once, with its positions in order."""
    for kernels in (native, reference):
        plan = kernels.group(np.array(ids, np.int64))
        assert sorted(plan.rows) == sorted(set(ids))
        found = {int(row): list(plan.order[a:b]) for row, a, b in zip(plan.rows, plan.starts, plan.starts[1:], strict=False)}
        assert found == {row: [i for i, x in enumerate(ids) if x == row] for row in set(ids)}


@given(ids=st.lists(st.integers(0, 3), max_size=6), others=st.lists(st.integers(0, 3), max_size=6))
def test_same(ids: list[int], others: list[int]) -> None:
    """Ids are the same if they are as many, and equal one by one; a copy stays as it is."""
    for kernels in (native, reference):
        array = np.array(ids, np.int64)
        kept = kernels.copied(array)
        assert kernels.same(array, kept)
        assert kernels.same(array, np.array(others, np.int64)) == (ids == others)
        array += 1
        assert kept.tolist() == ids


@given(last=st.lists(st.integers(0, 9), min_size=1, max_size=40), data=st.data())
def test_last_steps(last: list[int], data: st.DataObject) -> None:
    """Each row finds the step of its last touch among the distinct ones; a row touched now finds -1."""
    rows = data.draw(st.lists(st.integers(0, len(last) - 1), max_size=50))
    for kernels in (native, reference):
        stores = kernels.stores([[np.zeros((len(last), 1), np.float32)]], [0], np.array(last, np.uint32))
        which, steps = stores.last_steps(np.array(rows, np.int64), 9)
        assert len(set(steps.tolist())) == len(steps)
        assert [9 if k < 0 else int(steps[k]) for k in which] == [last[row] for row in rows]


@settings(deadline=None)
@given(
    dtype=st.sampled_from(["float32", "float64"]),
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    mode=st.sampled_from(["sum", "mean", "max"]),
    weighted=st.booleans(),
    dim=st.sampled_from([1, 5, 16]),
    seed=st.integers(0, 2**16),
)
def test_pool(dtype: str, lengths: list[int], mode: str, weighted: bool, dim: int, seed: int) -> None:
    """Bags give the same bits, empty ones included."""
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    values = generator.normal(size=(9, dim)).astype(dtype)
    ids = generator.integers(0, 9, size=offsets[-1])
    weights = generator.normal(size=len(ids)) if weighted and mode != "max" else None
    results = []
    for kernels in (native, reference):
        out = np.full((len(lengths), dim), np.nan, dtype)
        kernels.pool(values, ids, offsets, weights, mode, out)
        results.append(out)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_threads_do_not_change_a_bit(rule: str) -> None:
    """One thread and four give the same lookups and the same trained table, on work large enough to be shared."""
    results = []
    before = unhot.get_num_threads()
    for threads in (1, 4):
        unhot.set_num_threads(threads)
        generator = np.random.default_rng(3)
        table = unhot.Table(3000, 32, optimizer=RULES[rule](), seed=1)
        for _ in range(4):
            ids = generator.integers(0, 3000, size=4000)
            table.step(ids, generator.normal(size=(4000, 32)).astype(np.float32))
        results.append((table.lookup(np.arange(3000)), table.bag(ids.reshape(-1, 8)), table.array))
    unhot.set_num_threads(before)
    for one, four in zip(*results, strict=True):
        np.testing.assert_array_equal(one, four)


def test_an_openmp_team_does_not_change_a_bit() -> None:
    """The same with the threads of an OpenMP library, with more and with fewer of them than are asked for."""
    try:
        library = ctypes.CDLL("libgomp.so.1")
    except OSError:
        pytest.skip("GCC's OpenMP library is not on this machine")
    region = ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value
    results, before = [], unhot.get_num_threads()

    def train(team: int) -> None:  # in a thread of its own, since each has its own team
        if team:
            library.omp_set_num_threads(team)
            native.join_openmp(region)
        table = unhot.Table(3000, 32, optimizer=unhot.Adam(0.1), seed=1)
        for ids in np.random.default_rng(3).integers(0, 3000, size=(4, 4000)):
            table.step(ids, np.random.default_rng(4).normal(size=(4000, 32)).astype(np.float32))
        results.append(table.lookup(np.arange(3000)).tobytes() + table.array.tobytes())

    unhot.set_num_threads(2)
    try:
        for team in (0, 1, 2, 5):
            together(lambda team=team: train(team))
    finally:
        unhot.set_num_threads(before)
    assert len(results) == 4
    assert len(set(results)) == 1


def test_large_outputs_are_gathered_alike() -> None:
    """The copy around the caches, taken for large outputs, equals numpy.take, also for rows that it cannot align."""
    for dim in (3, 4, 20, 64):
        weights = np.random.default_rng(0).normal(size=(1000, dim)).astype(np.float32)
        ids = np.random.default_rng(1).integers(0, 1000, size=3 * 2**20 // dim)
        for shift in (0, 1):
            out = np.empty(ids.size * dim + 1, np.float32)[shift : ids.size * dim + shift].reshape(-1, dim)
            native.stores([[weights]], [0], None).gather(ids, [Segment(0, out)])
            np.testing.assert_array_equal(out, weights[ids])


def test_the_numpy_kernels_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """UNHOT_KERNELS chooses; anything else is an error that says so."""
    monkeypatch.setenv("UNHOT_KERNELS", "numpy")
    assert unhot.kernels._choose().name == "numpy"
    monkeypatch.setenv("UNHOT_KERNELS", "fortran")
    with pytest.raises(ImportError, match="'numpy' or 'native'"):
        unhot.kernels._choose()


def test_native_arguments_are_checked() -> None:
    """Arrays of another type are refused instead of copied, and shapes that do not fit are errors."""
    ids = np.zeros(3, np.int64)
    stores = _native.StoresFloat32([[np.zeros((4, 2), np.float32)]], [0], None)
    with pytest.raises(TypeError):
        stores.gather(ids.astype(np.int32), [(0, np.zeros((3, 2), np.float32), None, None)])
    with pytest.raises(ValueError, match="a vector for each id"):
        stores.gather(ids, [(0, np.zeros((2, 2), np.float32), None, None)])
    with pytest.raises(ValueError, match="instruction set"):
        _native.use("mmx")


def with_one_changed(arguments: list[Any]) -> Iterator[list[Any]]:
    """The arguments with one of their arrays cut short, or one number of it far outside: in each place in turn."""
    for i, argument in enumerate(arguments):
        if isinstance(argument, tuple | list) and argument:
            yield [*arguments[:i], argument[:-1], *arguments[i + 1 :]]
            for part in with_one_changed(list(argument)):
                yield [*arguments[:i], type(argument)(part), *arguments[i + 1 :]]
        elif isinstance(argument, np.ndarray) and argument.size:
            for cut in (argument[:-1], argument[:0]):
                yield [*arguments[:i], cut.copy(), *arguments[i + 1 :]]
            if argument.ndim > 1:
                yield [*arguments[:i], np.ascontiguousarray(argument[:, :-1]), *arguments[i + 1 :]]
            if argument.dtype in (np.int64, np.int32):
                for value in (10**9, -1000, np.iinfo(argument.dtype).min):
                    changed = argument.copy()
                    changed[len(changed) // 2] = value
                    yield [*arguments[:i], changed, *arguments[i + 1 :]]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_native_kernels_never_leave_the_arrays_that_they_are_given(rule: str) -> None:
    """Whatever array is too short and whatever number lies outside is an error, before anything is written."""
    table = trained(rule, "float32", 6, 3, 5, 0)
    engine = table._engine
    now, clock, gradients = engine.now, engine.clock, np.ones((4, 3), np.float32)
    states = [[array[:4].copy() for array in engine.stores[0].state], [array[4:].copy() for array in engine.stores[0].state]]
    last = engine.last if engine.last is not None else np.full(6, 2, np.uint32)
    held = [*states[0], *states[1], last]
    ids = np.array([1, 3, 1, 5])
    plan, line_of_row, steps = native.stores(states, [0, 4], last).pending(ids, now)
    coefficients, scalars = clock.coefficients(steps), clock.scalars(now + 1, table.optimizer.read(now + 1))
    law = native._described(clock.formula())
    out = [(0, np.empty((3, 3), np.float32), None, None), (1, np.empty((1, 3), np.float32), None, None)]
    factors = np.ones(3)
    given = [(0, gradients[:2].copy(), np.array([0, 1, 1]), factors), (1, gradients[3:].copy(), None, None)]
    bags = [
        (0, np.empty((2, 3), np.float32), np.array([0, 2, 3]), np.ones(4), 0),
        (1, np.empty((1, 3), np.float32), np.array([3, 4]), None, 1),
    ]
    room = [np.empty(4 * 4 + 1, np.int64), np.empty(4, np.int32)]
    stores = [states, [0, 4], last]
    calls: dict[str, list[Any]] = {
        "pending": [stores, ids, now, *room],
        "gather": [stores, ids, out],
        "gather_settled": [stores, law, *plan, line_of_row, coefficients, out],
        "pool": [stores, ids, bags],
        "pool_settled": [stores, law, ids, *plan, line_of_row, coefficients, bags],
        "settle": [stores, law, plan.rows, line_of_row, coefficients, now],
        "step": [stores, law, *plan, line_of_row, coefficients, now + 1, scalars, given],
    }
    pooling = [states[0][0], np.array([1, 3, 3]), np.array([0, 2, 3]), None, 0, np.empty((2, 3), np.float32)]

    def call(name: str, made_of: list[Any], *arguments: Any) -> None:
        getattr(_native.StoresFloat32(*made_of), name)(*arguments)

    for name, arguments in {**calls, "pooling": pooling}.items():
        kernel = _native.pool if name == "pooling" else partial(call, name)
        before = [array.copy() for array in held]
        refused = 0
        for changed in with_one_changed(arguments):
            try:
                kernel(*changed)
            except (ValueError, IndexError, TypeError, RuntimeError):
                refused += 1
                for array, was in zip(held, before, strict=True):
                    np.testing.assert_array_equal(array, was)
            else:  # what was cut off is not read
                for array, was in zip(held, before, strict=True):
                    array[:] = was
        assert refused >= (4 if name == "pooling" else 9)
    with pytest.raises(ValueError, match="the plan is not that of the ids"):  # one place twice, and another left out
        call("pool_settled", stores, law, ids, plan.rows, plan.order[[0, 0, 2, 3]], *calls["pool_settled"][5:])
    if (line_of_row >= 0).any():  # a line that there just is not
        for name in ("gather_settled", "pool_settled", "settle", "step"):
            with pytest.raises(ValueError, match="a line of coefficients that there is not"):
                call(name, *(coefficients[:-1].copy() if a is coefficients else a for a in calls[name]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_histories_are_kept_alike(rule: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The history and its coefficients are the same bits in NumPy, over blocks that close and rates that rise and fall."""
    lines = []
    for kernels in (native, reference):
        monkeypatch.setattr("unhot.clock.history.kernels", kernels)
        monkeypatch.setattr("unhot.clock.measure.kernels", kernels)
        optimizer = RULES[rule]()
        optimizer.learning_rate = lambda step: 1e-3 * (1.1 + np.sin(step / 40)) * (1e3 if step > 600 else 1.0)
        table = unhot.Table(4, 2, optimizer=optimizer, dtype=dtype, seed=0)
        for step in range(900):
            table.step([step % 3], np.full((1, 2), 0.1, dtype))
        lines.append(table._engine.clock.coefficients(np.arange(900)))
    np.testing.assert_array_equal(*lines)
