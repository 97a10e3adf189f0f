"""`unhot.DenseView` against a Dense layer on one-hot and multi-hot vectors, written out and trained in float64."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance.dense import RULES as DENSE
from hypothesis import given
from hypothesis import strategies as st
from interrupts import before_bytecode, everywhere

import unhot

Array = np.ndarray[Any, np.dtype[Any]]

ROWS, DIM = 12, 3

ACTIVATIONS: dict[str | None, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    None: (lambda z: z, np.ones_like),
    "relu": (lambda z: z * (z > 0), lambda z: 1.0 * (z > 0)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "softplus": (lambda z: np.log(1 + np.exp(z)), lambda z: 1 / (1 + np.exp(-z))),
}
"""Function and derivative, as the books have them."""

RULES: dict[str, dict[str, Any]] = {
    "AdamW": {"weight_decay": 0.1, "amsgrad": True},
    "SGD": {"momentum": 0.9},
    "SGD plain": {},
    "Adagrad": {"initial_accumulator_value": 0.1},
    "RMSprop torch": {"momentum": 0.5, "centered": True},
    "NAdam torch": {},
    "Adamax torch": {},
    "Lion": {"weight_decay": 0.1},
    "Ftrl": {},
    "RowwiseAdagrad": {"weight_decay": 0.1},
}
RATE = 0.05


class DenseLayer:
    """activation(x @ weights + bias), whose weights and bias are parameters of one dense optimizer."""

    def __init__(self, name: str, weights: Array, bias: Array, activation: str | None = None) -> None:
        rule, convention = (*name.split(), "keras")[:2]
        kind = DENSE[rule, "torch" if convention == "torch" else "keras"]
        self.weights, self.bias = (kind(start, learning_rate=RATE, **RULES[name]) for start in (weights, bias.reshape(-1, 1)))
        self.function, self.derivative = ACTIVATIONS[activation]

    def before(self, x: Array) -> Array:
        product: Array = x @ self.weights.w
        return product + self.bias.w[:, 0]

    def __call__(self, x: Array) -> Array:
        return self.function(self.before(x))

    def step(self, x: Array, gradients: Array) -> None:
        backwards = gradients * self.derivative(self.before(x))
        self.weights.step(x.T @ backwards)
        self.bias.step(backwards.sum(0).reshape(-1, 1))


def optimizer(name: str) -> Any:
    rule, convention = (*name.split(), "keras")[:2]
    options = {"convention": "torch"} if convention == "torch" else {}
    return getattr(unhot, rule)(learning_rate=RATE, **RULES[name], **options)


def start(seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ROWS, DIM)), rng.normal(size=DIM)


def pair(name: str = "AdamW", activation: str | None = None, **options: Any) -> tuple[unhot.DenseView, DenseLayer]:
    weights, bias = start()
    table = unhot.Table.from_array(weights, optimizer=optimizer(name), **options)
    return unhot.DenseView(table, bias=bias, activation=activation), DenseLayer(name, weights, bias, activation)


def one_hot(ids: Any, policy: Any = "zero") -> Array:
    """A row for each id; of one out of range a row of zeros, or that of the row that stands for it."""
    ids = np.asarray(ids).reshape(-1)
    known = (ids >= 0) & (ids < ROWS)
    rows = np.zeros((len(ids), ROWS))
    rows[known, ids[known]] = 1
    if policy != "zero":
        rows[~known, policy] = 1
    return rows


def multi_hot(ids: Any, starts: Any, factors: Any, mode: str, policy: Any = "zero") -> Array:
    """A row for each bag: what its ids' one-hot rows come to."""
    single, factors = one_hot(ids, policy), np.ones(np.size(ids)) if factors is None else np.reshape(factors, -1)
    made = []
    for begin, end in itertools.pairwise(starts):
        row = factors[begin:end] @ single[begin:end]
        made.append(row / factors[begin:end].sum() if mode == "mean" and end > begin else row)
    return np.array(made).reshape(len(made), ROWS)


def close(view: unhot.DenseView, dense: DenseLayer) -> None:
    np.testing.assert_allclose(view.table.array, dense.weights.w, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(view.bias, dense.bias.w[:, 0], rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", RULES)
def test_one_id_per_sample(name: str, activation: str | None) -> None:
    """Vectors before each step, weights and bias at the end; some rows rest for long, and one for ever."""
    view, dense = pair(name, activation)
    rng = np.random.default_rng(1)
    for step in range(50):
        ids = rng.integers(0, ROWS - 1 if step % 20 == 0 else 4, size=(2, 3))
        np.testing.assert_allclose(view.lookup(ids).reshape(-1, DIM), dense(one_hot(ids)), rtol=1e-9, atol=1e-12)
        gradients = rng.normal(size=(2, 3, DIM))
        view.step(ids, gradients)
        dense.step(one_hot(ids), gradients.reshape(-1, DIM))
        for each in (view.table.optimizer, dense.weights.h, dense.bias.h):
            each.learning_rate = RATE / (1 + step % 3)  # type: ignore[union-attr]
    close(view, dense)


@pytest.mark.parametrize("policy", ["zero", 2])
@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("name", ["AdamW", "SGD plain"])
def test_bags(name: str, mode: Any, policy: Any) -> None:
    """Flat and in rows, with factors and without, empty, and with ids out of range: multi-hot rows times weights."""
    view, dense = pair(name, "tanh", out_of_range=policy)
    rng = np.random.default_rng(2)
    for step in range(40):
        bags = int(rng.integers(0, 4))
        shape = (bags, int(rng.integers(0, 4))) if step % 2 else (int(rng.integers(0, 8)),) if bags else (0,)
        ids = rng.integers(-1, ROWS + 1 if step % 20 == 0 else 4, size=shape)
        offsets = None if step % 2 else [0, *sorted(rng.integers(0, ids.size + 1, size=bags - 1))] if bags else []
        starts = np.arange(bags + 1) * shape[1] if offsets is None else np.array([*offsets, ids.size])  # type: ignore[misc]
        factors = rng.uniform(0.5, 2, size=shape) if step % 3 else None
        x = multi_hot(ids, starts, factors, mode, policy)
        np.testing.assert_allclose(view.bag(ids, offsets, factors, mode), dense(x), rtol=1e-9, atol=1e-12)
        gradients = rng.normal(size=(bags, DIM))
        view.step(ids, gradients, offsets, factors, mode)
        dense.step(x, gradients)
    close(view, dense)


@given(st.data())
def test_bags_of_any_kind(data: st.DataObject) -> None:
    """One step of SGD, from which the gradients can be read."""
    ids = np.array(data.draw(st.lists(st.integers(-2, ROWS + 1), max_size=7)), np.int64)
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=4).map(sorted))
    mode = data.draw(st.sampled_from(["sum", "mean"]))
    factors = data.draw(st.none() | st.lists(st.floats(0.25, 4), min_size=len(ids), max_size=len(ids)))
    view, dense = pair("SGD plain", data.draw(st.sampled_from([*ACTIVATIONS])), out_of_range="zero")
    x = multi_hot(ids, [0, *cuts, len(ids)], factors, mode)
    np.testing.assert_allclose(view.bag(ids, [0, *cuts], factors, mode), dense(x), rtol=1e-9, atol=1e-12)
    gradients = np.sin(np.arange(len(x) * DIM)).reshape(-1, DIM)
    view.step(ids, gradients, [0, *cuts], factors, mode)
    dense.step(x, gradients)
    close(view, dense)


def test_ids_out_of_range() -> None:
    """They give activation(bias), which trains the bias; the row that stands for them gets their gradients."""
    for policy in ("zero", 5):
        view, dense = pair("AdamW", "softplus", out_of_range=policy)
        for ids in ([-1, 3, 99], [99, 99, -7]):
            x = one_hot(ids, policy)
            np.testing.assert_allclose(view[ids], dense(x), rtol=1e-9)
            view.step(ids, np.ones((3, DIM)))
            dense.step(x, np.ones((3, DIM)))
        close(view, dense)


def test_as_a_layer_of_pytorch() -> None:
    """`nn.Linear` on multi-hot rows under `torch.optim.AdamW`, which decays the bias, too."""
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(ROWS, DIM, dtype=torch.float64)
    stock = torch.optim.AdamW(linear.parameters(), lr=RATE, weight_decay=0.1)
    table = unhot.Table.from_array(
        linear.weight.detach().numpy().T, optimizer=unhot.AdamW(RATE, weight_decay=0.1, convention="torch")
    )
    view = unhot.DenseView(table, bias=linear.bias.detach().numpy(), activation="gelu")
    rng = np.random.default_rng(4)
    for step in range(40):
        ids, targets = rng.integers(0, ROWS if step % 20 == 0 else 4, (5, 3)), rng.normal(size=(5, DIM))
        out = torch.nn.functional.gelu(linear(torch.from_numpy(multi_hot(ids, range(0, 16, 3), None, "sum"))))
        stock.zero_grad()
        ((out - torch.from_numpy(targets)) ** 2).sum().backward()
        stock.step()
        view.step(ids, 2 * (view.bag(ids) - targets), mode="sum")
    np.testing.assert_allclose(table.array, linear.weight.detach().numpy().T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(view.bias, linear.bias.detach().numpy(), rtol=1e-9, atol=1e-12)  # type: ignore[arg-type]


def test_maxima_and_products() -> None:
    view, dense = pair("AdamW", "relu")
    view.step([1, 2], np.ones((2, DIM)))
    dense.step(one_hot([1, 2]), np.ones((2, DIM)))
    x = np.random.default_rng(0).normal(size=(4, ROWS)) * (np.arange(ROWS) % 3 == 0)
    np.testing.assert_allclose(view.matmul(x), dense(x), rtol=1e-9, atol=1e-12)
    largest = dense.weights.w[[[1, 2, 7]]].max(1) + dense.bias.w[:, 0]
    np.testing.assert_allclose(view.bag([[1, 2, 7]], mode="max"), dense.function(largest), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="mode='max'"):
        view.step([[1, 2]], np.ones((1, DIM)), mode="max")  # type: ignore[arg-type]


def test_one_vector() -> None:
    view, dense = pair("AdamW", "relu")
    np.testing.assert_allclose(view[3], dense(one_hot(3))[0])
    view.step(3, np.ones(DIM))
    dense.step(one_hot(3), np.ones((1, DIM)))
    close(view, dense)


def test_float32() -> None:
    weights, bias = start()
    view = unhot.DenseView(
        unhot.Table.from_array(weights.astype("float32"), optimizer=optimizer("AdamW")), bias=bias, activation="gelu"
    )
    assert view.lookup([[1, 2]]).dtype == view.bag([[1, 2]]).dtype == view.matmul(np.eye(ROWS)).dtype == np.float32
    double = unhot.DenseView(unhot.Table.from_array(weights, optimizer=optimizer("AdamW")), bias=bias, activation="gelu")
    rng = np.random.default_rng(0)
    for _ in range(30):
        ids, gradients = rng.integers(0, 6, 20), rng.normal(size=(20, DIM))
        for each in (view, double):
            each.step(ids, gradients)
    np.testing.assert_allclose(view[np.arange(ROWS)], double[np.arange(ROWS)], rtol=1e-4, atol=1e-5)


def test_gradients_that_wait() -> None:
    """Several lookups in one step, of the view and of the table; they are copied."""
    view, dense = pair("AdamW", "tanh")
    ids, gradients, factors = np.array([[1, 2], [3, 3]]), np.ones((2, DIM)), np.array([[1.0, 2.0], [0.5, 1.0]])
    view.accumulate(ids, gradients, weights=factors, mode="sum")
    x = [multi_hot(ids, [0, 2, 4], factors, "sum"), one_hot([4, 1])]
    for array in (ids, gradients, factors):
        array[...] = 0
    unbiased = unhot.DenseView(view.table, bias=False)
    unbiased.accumulate([7], np.full((1, DIM), 0.5))
    view.step([4, 1], np.full((2, DIM), 2.0))
    both = np.concatenate(x)
    backwards = np.array([1.0, 1, 2, 2])[:, None] * dense.derivative(dense.before(both))
    dense.weights.step(both.T @ backwards + 0.5 * one_hot(7).T)
    dense.bias.step(backwards.sum(0).reshape(-1, 1))
    close(view, dense)
    view.accumulate([1], np.ones((1, DIM)))
    with pytest.raises(RuntimeError, match="wait for a step"):
        view.state_dict()
    view.step()
    assert view.table.clock == 2


def test_views_share_the_bias() -> None:
    view, dense = pair()
    other = unhot.DenseView(view.table, activation="relu")
    np.testing.assert_array_equal(other.bias, view.bias)
    with pytest.raises(ValueError, match="has a bias already"):
        unhot.DenseView(view.table, bias=np.zeros(DIM))
    without = unhot.DenseView(view.table, bias=False)
    assert without.bias is None
    np.testing.assert_array_equal(without[[1]], view.table[[1]])
    view.step([1], np.ones((1, DIM)))
    dense.step(one_hot([1]), np.ones((1, DIM)))
    for each in (without, view.table):  # a step without a gradient of the bias
        each.step([2], np.ones((1, DIM)))
        dense.weights.step(one_hot([2]).T @ np.ones((1, DIM)))
        dense.bias.step(np.zeros((DIM, 1)))
    close(other, dense)


@pytest.mark.parametrize("name", ["AdamW", "SGD plain", "Adagrad"])
def test_a_bias_that_comes_later(name: str) -> None:
    """Of a table that has made steps, and has deferred some: it trains on as it would have."""
    weights, _ = start()
    table, alone = (unhot.Table.from_array(weights, optimizer=optimizer(name)) for _ in range(2))
    rng = np.random.default_rng(3)

    def step(*tables: Any) -> None:
        ids, gradients = rng.integers(0, 5, 4), rng.normal(size=(4, DIM))
        for each in tables:
            each.step(ids, gradients)

    for _ in range(20):
        step(table, alone)
    view = unhot.DenseView(table)
    for _ in range(40):
        step(view, alone)
    np.testing.assert_allclose(table.array, alone.array, rtol=1e-9, atol=1e-12)
    assert view.bias is not None
    assert view.bias.all()


def test_a_table_that_is_only_read() -> None:
    view = unhot.DenseView(unhot.Table(4, 2, init="zeros"), bias=[1.0, -1.0], activation="relu")
    np.testing.assert_array_equal(view[[3]], [[1, 0]])
    with pytest.raises(RuntimeError, match="no optimizer"):
        view.step([1], [[1.0, 1.0]])
    np.testing.assert_array_equal(view.state_dict()["bias.weights"].ravel(), [1, -1])


@pytest.mark.parametrize("name", RULES)
def test_a_state_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    view, _ = pair(name, "tanh")
    rng = np.random.default_rng(0)

    def step(*views: unhot.DenseView) -> None:
        ids, gradients = rng.integers(0, 5, 6), rng.normal(size=(6, DIM))
        for each in views:
            each.step(ids, gradients)

    for _ in range(9):
        step(view)
    np.savez(tmp_path / "view.npz", **view.state_dict())
    other, _ = pair(name, "tanh")
    with np.load(tmp_path / "view.npz") as state:
        other.load_state_dict(state)
    copies = [other, copy.deepcopy(view), pickle.loads(pickle.dumps(view))]
    for _ in range(9):
        step(view, *copies)
    for each in copies:
        np.testing.assert_array_equal(each.table.array, view.table.array)
        np.testing.assert_array_equal(each.bias, view.bias)


def test_states_of_tables_with_a_bias_and_without() -> None:
    view, _ = pair()
    table = unhot.Table.from_array(start()[0], optimizer=optimizer("AdamW"))
    before = table.array, view.bias
    with pytest.raises(ValueError, match="the state has a bias, and this table has none"):
        table.load_state_dict(view.state_dict())
    with pytest.raises(ValueError, match=r"no 'bias.weights'"):
        view.load_state_dict(table.state_dict())
    np.testing.assert_array_equal(table.array, before[0])
    np.testing.assert_array_equal(view.bias, before[1])


def test_a_callers_activation() -> None:
    weights, bias = start()
    own, named = (
        unhot.DenseView(unhot.Table.from_array(weights, optimizer=optimizer("AdamW")), bias=bias, activation=activation)
        for activation in ((np.tanh, lambda z: 1 - np.tanh(z) ** 2), "tanh")
    )
    assert (own.activation, named.activation) == ("tanh", "tanh")
    for view in (own, named):
        view.step([1, 2], np.ones((2, DIM)))
    np.testing.assert_allclose(own.table.array, named.table.array, rtol=1e-12)
    broken = unhot.DenseView(own.table, activation=(lambda z: z[0], lambda z: z[0]))
    before = own.table.array
    for work in (lambda: broken[[1, 2]], lambda: broken.step([1, 2], np.ones((2, DIM)))):
        with pytest.raises(ValueError, match=r"must return real numbers of its argument's shape, \(2, 3\)"):
            work()
    assert own.table.clock == 1
    np.testing.assert_array_equal(own.table.array, before)


BAD: dict[str, tuple[Callable[[unhot.DenseView], Any], type[Exception], str]] = {
    "no table": (lambda v: unhot.DenseView(v), TypeError, "must be an unhot.Table. Received: DenseView"),  # type: ignore[arg-type]
    "a bias": (lambda v: unhot.DenseView(v.table, bias=[1.0]), ValueError, r"shape \(3,\). Received: shape \(1,\)"),
    "words": (lambda v: unhot.DenseView(v.table, bias=["a"] * 3), ValueError, "real numbers"),  # type: ignore[list-item]
    "an activation": (lambda v: unhot.DenseView(v.table, activation="rellu"), ValueError, "'linear', 'relu'"),
    "an id": (lambda v: v[[1, 99]], IndexError, "id 99 at position 1"),
    "an id of a step": (lambda v: v.step([99], [[1.0] * 3]), IndexError, "id 99 at position 0"),
    "one argument": (lambda v: v.step([1]), TypeError, "both ids and grads, or neither"),
    "gradients": (lambda v: v.step([1], [[1.0]]), ValueError, r"ids.shape \+ \(dim,\) = \(1, 3\)"),
    "gradients of bags": (lambda v: v.step([[1, 2]], [[[1.0] * 3] * 2], mode="sum"), ValueError, r"\(bags, dim\) = \(1, 3\)"),
    "weights of no bags": (lambda v: v.step([1], [[1.0] * 3], weights=[1.0]), ValueError, "give mode='sum' or 'mean'"),
    "a mode": (lambda v: v.step([[1]], [[1.0] * 3], mode="all"), ValueError, "`mode` must be"),  # type: ignore[arg-type]
    "gradients that wait": (lambda v: v.accumulate([1], [[1.0]]), ValueError, r"\(1, 3\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_changes_nothing(name: str) -> None:
    view, dense = pair("AdamW", "tanh")
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call(view)
    view.step([1], np.ones((1, DIM)))
    dense.step(one_hot([1]), np.ones((1, DIM)))
    close(view, dense)


def test_what_is_shown() -> None:
    view, _ = pair("SGD plain", "relu")
    assert repr(view).startswith("DenseView(Table(12, 3, optimizer=SGD(")
    assert repr(view).endswith("bias=True, activation='relu')")


def test_threads_read_rows_and_bias_of_one_step() -> None:
    """Each step moves row 0 and the bias by the same, so that its vector moves twice as far as those of other rows."""
    table = unhot.Table(ROWS, 1, optimizer=unhot.SGD(1.0, momentum=0.5), init="zeros", dtype="float64")
    view = unhot.DenseView(table)
    done = threading.Event()

    def read() -> int:
        count = 0
        while not done.is_set() or not count:
            for found in (view.lookup([0, 1]).ravel(), view.bag([[0], [1]]).ravel()):
                assert found[0] == 2 * found[1]
            count += 1
        return count

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for _ in range(300):
            view.step([0], [[1.0]])
        done.set()
        assert all(reader.result(60) for reader in readers)


# ------------------------------------------------------------------ signals


def trained(name: str, steps: int = 15) -> tuple[unhot.DenseView, DenseLayer]:
    view, dense = pair(name, "tanh")
    for seed in range(steps):
        step(view, seed)
        step(dense, seed)
    return view, dense


def step(layer: unhot.DenseView | DenseLayer, seed: int) -> None:
    """A step of bags; the 16th is followed by settling rows in turn."""
    rng = np.random.default_rng(seed)
    ids, gradients = rng.integers(0, ROWS - 2, size=(2, 3)), rng.normal(size=(2, DIM))
    if isinstance(layer, DenseLayer):
        layer.step(multi_hot(ids, [0, 3, 6], None, "mean"), gradients)
    else:
        layer.step(ids, gradients, mode="mean")


@pytest.mark.parametrize("name", ["AdamW", "SGD", "SGD plain"])
def test_an_interrupted_step(name: str, everything: bool) -> None:
    """Rows and bias are both before it or both after it."""
    view, dense = trained(name)
    other = copy.deepcopy(dense)
    step(other, 50)
    seen = set()
    stride = (1 if name == "AdamW" else 3) * (1 if everything else 9)
    for each in everywhere(lambda: copy.deepcopy(view), lambda each: step(each, 50), stride):
        made = each.table.clock - 15
        expected = copy.deepcopy((dense, other)[made])
        for seed in (100, 101):
            step(each, seed)
            step(expected, seed)
        close(each, expected)
        seen.add(made)
    assert seen == {0, 1}


def test_an_interrupted_beginning(everything: bool) -> None:
    """The table has its bias or not, and trains on; a view of it can be made again."""
    weights, bias = start()
    table, dense = unhot.Table.from_array(weights, optimizer=optimizer("AdamW")), DenseLayer("AdamW", weights, 0 * bias, "tanh")
    for ids in ([1, 2], [3, 4]):
        table.step(ids, np.ones((2, DIM)))
        dense.weights.step(one_hot(ids).T @ np.ones((2, DIM)))
        dense.bias.step(np.zeros((DIM, 1)))
    for each in everywhere(lambda: copy.deepcopy(table), unhot.DenseView, 1 if everything else 13):
        view, expected = unhot.DenseView(each, activation="tanh"), copy.deepcopy(dense)
        for seed in (100, 101):
            step(view, seed)
            step(expected, seed)
        close(view, expected)


def test_a_handler_that_uses_the_view(everything: bool) -> None:
    """Its step comes before the interrupted one, or after it."""
    view, dense = trained("AdamW")
    orders = [copy.deepcopy(dense) for _ in range(2)]
    for order, seeds in zip(orders, [(50, 51), (51, 50)], strict=True):
        for seed in seeds:
            step(order, seed)
    at, more = 0, True
    while more:
        each = copy.deepcopy(view)
        more = before_bytecode(lambda each=each: step(each, 50), at, lambda each=each: step(each, 51))  # type: ignore[misc]
        if more:
            assert each.table.clock == 17
            differences = [np.abs(each.table.array - order.weights.w).max() for order in orders]
            close(each, orders[int(np.argmin(differences))])
        at += 7 if everything else 31


@pytest.mark.parametrize("work", ["adds a bias", "loads a state"])
def test_a_handler_while_a_view_is_made(work: str, everything: bool) -> None:
    """The table has one bias, with which the view goes on, also if the handler has put another state into the table."""
    table = unhot.Table.from_array(start()[0], optimizer=optimizer("AdamW"))
    state = table.state_dict()
    at, more = 0, True
    while more:
        each, views = copy.deepcopy(table), []
        handler = (lambda each=each: unhot.DenseView(each)) if work == "adds a bias" else lambda each=each: reload(each, state)
        more = before_bytecode(lambda each=each, views=views: views.append(unhot.DenseView(each)), at, handler)
        assert len(each._engine.stores) == 2
        before = views[0].bias
        views[0].step([1], np.ones((1, DIM)))
        assert (views[0].bias != before).all()
        at += 1 if everything else 5


def reload(table: unhot.Table, state: dict[str, Any]) -> None:
    """Load a state, if the table has no bias yet."""
    if len(table._engine.stores) == 1:
        table.load_state_dict(state)
