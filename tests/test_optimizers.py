"""The optimizers' hyperparameters: defaults and names of the installed Keras and PyTorch, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import pickle
from typing import Any

import numpy as np
import pytest

import unhot
from unhot.optimizers import OPTIMIZERS, Optimizer
from unhot.optimizers.names import Names

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import torch

RULES = [
    unhot.SGD, unhot.Adagrad, unhot.RMSprop, unhot.Adadelta, unhot.Adam, unhot.AdamW, unhot.Adamax, unhot.NAdam, unhot.RAdam,
    unhot.LazyAdam, unhot.Lion, unhot.Ftrl, unhot.RowwiseAdagrad,
]  # fmt: skip
IN_TORCH = [rule for rule in RULES if rule not in (unhot.LazyAdam, unhot.Lion, unhot.Ftrl, unhot.RowwiseAdagrad)]
IN_KERAS = [rule for rule in RULES if rule not in (unhot.LazyAdam, unhot.RAdam, unhot.RowwiseAdagrad)]
BY_NAME = {"ids": lambda rule: rule.__name__}

DECAYING: dict[type[Optimizer], dict[str, Any]] = {
    unhot.RAdam: {"decoupled_weight_decay": True}, unhot.LazyAdam: {"weight_decay": 0},
}  # fmt: skip
"""What it takes for a weight decay in the default convention; or there is none."""

GENERAL = {
    "weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum", "ema_overwrite_frequency",
    "loss_scale_factor", "gradient_accumulation_steps", "name",
}  # fmt: skip
"""What every Keras optimizer takes, and is not part of a rule but for the decay."""

OURS = {"weight_decay", "convention", "decoupled_weight_decay", "dampening", "lr_decay", "momentum_decay"}
"""Hyperparameters that Keras does not have, or gives None for 0."""


def defaults_of(thing: Any) -> dict[str, Any]:
    """The defaults in a signature."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(thing).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def names_in(rule: type[Optimizer], framework: str) -> Names:
    names = rule.TORCH if framework == "torch" else rule.KERAS
    assert names is not None
    return names


def keras_s(rule: type[Optimizer]) -> Any:
    return getattr(keras.optimizers, names_in(rule, "keras").stock)


@pytest.mark.parametrize("rule", IN_KERAS, **BY_NAME)
def test_defaults_are_keras_s(rule: type[Optimizer]) -> None:
    """What is left out is what the installed Keras takes; and no hyperparameter of the rule is missing."""
    theirs = defaults_of(keras_s(rule))
    ours = rule()
    names = {field.name for field in dataclasses.fields(ours)}
    special = set(theirs) - GENERAL
    assert special | {"learning_rate"} == (names - OURS) | {"learning_rate"}
    for name in special | {"learning_rate"}:
        assert getattr(ours, name) == theirs[name], name
    assert ours.weight_decay == (theirs["weight_decay"] or 0.0)


@pytest.mark.parametrize("rule", IN_TORCH, **BY_NAME)
def test_defaults_are_torch_s(rule: type[Optimizer]) -> None:
    """With convention="torch", what is left out is what the installed PyTorch takes; no hyperparameter is missing."""
    theirs = defaults_of(getattr(torch.optim, rule.__name__))
    ours = rule(convention="torch")
    for name, place in names_in(rule, "torch").hyperparameters.items():
        key, *where = (place,) if isinstance(place, str) else place
        if key in theirs:  # AdamW has no argument for what it stands for
            value = theirs[key][where[0]] if where else theirs[key]
            assert getattr(ours, name) == value, name
    named = {place if isinstance(place, str) else place[0] for place in names_in(rule, "torch").hyperparameters.values()}
    general = {"params", "foreach", "maximize", "capturable", "differentiable", "fused"}
    assert set(theirs) - general - {"initial_accumulator_value"} <= named


EVERY_SLOT = {"momentum": 0.9, "centered": True, "amsgrad": True}
"""Hyperparameters by which an optimizer keeps more."""


@pytest.mark.parametrize("rule", IN_TORCH, **BY_NAME)
def test_names_are_torch_s(rule: type[Optimizer]) -> None:
    """The installed PyTorch keeps hyperparameters, slots and numbers under the names of the description, and no others."""
    names, cls = names_in(rule, "torch"), getattr(torch.optim, names_in(rule, "torch").stock)
    assert names.stock == rule.__name__
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = cls([parameter], **{name: value for name, value in EVERY_SLOT.items() if name in defaults_of(cls)})
    parameter.grad = torch.ones(2, 3)
    optimizer.step()
    state, (group,) = optimizer.state[parameter], optimizer.param_groups
    assert set(state) == {*names.slots.values(), *names.numbers.values()}
    assert all(state[slot].shape == (2, 3) for slot in names.slots.values())
    assert all(state[number].shape == () for number in names.numbers.values())
    for place in names.hyperparameters.values():
        assert (place if isinstance(place, str) else place[0]) in group
    fields = {field.name for field in dataclasses.fields(rule)} - set(names.implied)
    assert fields == set(names.hyperparameters)
    made = rule(**names.implied, **{name: value for name, value in EVERY_SLOT.items() if name in fields})
    assert set(made.clock(np.dtype("float32"), 2).slots) == set(names.slots)


@pytest.mark.parametrize("rule", IN_KERAS, **BY_NAME)
def test_names_are_keras_s(rule: type[Optimizer]) -> None:
    """The same for the installed Keras."""
    names, cls = names_in(rule, "keras"), keras_s(rule)
    optimizer = cls(**{name: value for name, value in EVERY_SLOT.items() if name in defaults_of(cls)})
    optimizer.build([keras.Variable(np.ones((2, 3)))])
    held = {id(getattr(optimizer, slot)[0]) for slot in names.slots.values()}
    held |= {id(getattr(optimizer, number)) for number in names.numbers.values()}
    product = [optimizer._u_product] if rule is unhot.NAdam else []  # which Keras does not list
    general = {id(optimizer.iterations), id(optimizer._learning_rate)}
    assert {id(variable) for variable in [*optimizer.variables, *product]} == held | general
    assert all(getattr(optimizer, str(place)) is not None for place in names.hyperparameters.values())
    fields = {field.name for field in dataclasses.fields(rule)} - OURS - {"learning_rate"} | set(names.hyperparameters)
    assert fields == set(names.hyperparameters)
    made = rule(**{name: value for name, value in EVERY_SLOT.items() if name in fields})
    assert set(made.clock(np.dtype("float32"), 2).slots) == set(names.slots)


@pytest.mark.parametrize("rule", RULES, **BY_NAME)
def test_what_is_given_is_kept(rule: type[Optimizer]) -> None:
    """The learning rate is the one positional argument; given values stand, and assigned ones, and there are no others."""
    optimizer = rule(0.25)
    assert optimizer.learning_rate == 0.25
    assert rule(learning_rate=0.25) == optimizer
    optimizer.learning_rate = 0.5
    assert optimizer.learning_rate == 0.5
    with pytest.raises(TypeError, match="positional"):
        rule(0.25, 0.9)
    with pytest.raises(TypeError, match="learning_rat"):
        rule(learning_rat=0.25)
    with pytest.raises(AttributeError, match="learning_rat"):
        optimizer.learning_rat = 0.25
    assert f"{rule.__name__}(learning_rate=0.5" in repr(optimizer)
    for copied in (copy.copy(optimizer), copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert copied == optimizer
        assert type(copied) is rule


def test_the_registry_holds_every_rule() -> None:
    """By its name in lower case."""
    assert {name: rule.__name__.lower() for name, rule in OPTIMIZERS.items()} == {name: name for name in OPTIMIZERS}
    assert set(OPTIMIZERS.values()) == set(RULES)


def test_0_is_not_left_out() -> None:
    """A rate or decay of 0 is a value; only None stands for the default."""
    assert unhot.AdamW(0.0, weight_decay=0.0).weight_decay == 0.0
    assert unhot.AdamW(0.0).learning_rate == 0.0
    assert unhot.AdamW(None).learning_rate == 0.001
    assert unhot.AdamW(weight_decay=None).weight_decay == 0.004


COUPLED = [unhot.Adam, unhot.NAdam, unhot.Adamax, unhot.RMSprop, unhot.Adagrad, unhot.Adadelta]


@pytest.mark.parametrize("rule", COUPLED, **BY_NAME)
def test_coupled_decay_is_refused(rule: type[Optimizer]) -> None:
    """PyTorch's L2 decay is no recurrence of one row: the error says so, and names what to use instead, which works."""
    with pytest.raises(ValueError, match=rf"{rule.__name__}: with convention='torch', `weight_decay` is coupled") as caught:
        rule(convention="torch", weight_decay=0.01)
    message = str(caught.value)
    assert "Received: weight_decay=0.01" in message
    assert "convention='keras'" in message
    assert rule(weight_decay=0.01).weight_decay == 0.01
    if "decoupled_weight_decay" in message:
        assert rule(convention="torch", weight_decay=0.01, decoupled_weight_decay=True).weight_decay == 0.01
    assert ("unhot.AdamW" in message) == (rule is unhot.Adam)
    later = rule(convention="torch")
    later.weight_decay = 0.01
    table = unhot.Table(3, 2, optimizer=rule(convention="torch"), seed=0)
    before = table.array
    with pytest.raises(ValueError, match="coupled"):
        table.optimizer = later
    assert table.optimizer is not None
    table.optimizer.weight_decay = 0.01
    with pytest.raises(ValueError, match="coupled"):
        table.step([1], [[1.0, 2.0]])
    np.testing.assert_array_equal(table.array, before)


def test_a_coupled_decay_of_radam_is_refused() -> None:
    """Keras has no RAdam, so that there is one remedy alone."""
    with pytest.raises(ValueError, match=r"RAdam: .* is coupled .*weight_decay=0\.01\. Use decoupled_weight_decay=True\."):
        unhot.RAdam(weight_decay=0.01)
    assert unhot.RAdam(weight_decay=0.01, decoupled_weight_decay=True).weight_decay == 0.01


def test_a_decay_of_lazy_adam_is_refused() -> None:
    for convention in ("keras", "torch"):
        with pytest.raises(ValueError, match=r"LazyAdam: `weight_decay` must be 0.* Received: 0\.01\. Use AdamW"):
            unhot.LazyAdam(weight_decay=0.01, convention=convention)


def test_decoupled_decay_is_accepted() -> None:
    """AdamW and SGD take PyTorch's decay; the first is decoupled, the second linear."""
    assert unhot.AdamW(convention="torch", weight_decay=0.1).weight_decay == 0.1
    assert unhot.SGD(convention="torch", weight_decay=0.1, momentum=0.9).weight_decay == 0.1


NOT_A_RATE: dict[str, tuple[Any, type[Exception], str]] = {
    "NaN": (np.nan, ValueError, "Received: nan"),
    "negative": (-1e-3, ValueError, "Received: -0.001"),
    "infinite": (np.inf, ValueError, "Received: inf"),
    "beyond float64": (10**400, ValueError, "Received: 1000"),
    "a string": ("1e-3", TypeError, r"Received: '1e-3' \(of type str\)"),
    "a boolean": (True, TypeError, r"Received: True \(of type bool\)"),
    "a list": ([0.1], TypeError, r"Received: \[0\.1\] \(of type list\)"),
    "complex": (1j, TypeError, "of type complex"),
    "an array": (np.ones(2), TypeError, "of type ndarray"),
    "an array of booleans": (np.array(True), TypeError, "of type ndarray"),
}


@pytest.mark.parametrize("value", NOT_A_RATE)
@pytest.mark.parametrize("name", ["learning_rate", "weight_decay"])
@pytest.mark.parametrize("rule", RULES, **BY_NAME)
def test_rates_that_are_not_numbers(rule: type[Optimizer], name: str, value: str) -> None:
    """Refused when the optimizer is made, by an error that names the rule, the hyperparameter and the value."""
    bad, error, message = NOT_A_RATE[value]
    with pytest.raises(error, match=rf"{rule.__name__}: `{name}` .*{message}"):
        rule(**{name: bad})


BETWEEN: list[tuple[Any, str, list[Any]]] = [
    *[(rule, "epsilon", [0, 0.0, -1e-8, np.nan, np.inf, "1e-8", True]) for rule in RULES if hasattr(rule(), "epsilon")],
    *[(rule, "beta_1", [1, 1.5, -0.1, np.nan, "0.9"]) for rule in RULES if hasattr(rule(), "beta_1")],
    *[(rule, "beta_2", [0, 1, 1.5, -0.1, np.nan, "0.9"]) for rule in RULES if hasattr(rule(), "beta_2")],
    *[(rule, "rho", [1, -0.1, np.nan, "0.9"]) for rule in RULES if hasattr(rule(), "rho")],
    *[(rule, "momentum", [1, 1.5, -0.1, np.nan, "0.9"]) for rule in RULES if hasattr(rule(), "momentum")],
    (unhot.RAdam, "beta_2", [0.5, 2 / 3]),
    (unhot.SGD, "dampening", [-0.1, np.nan, "0"]),
    (unhot.Adagrad, "initial_accumulator_value", [-0.1, np.nan, "0"]),
    (unhot.Adagrad, "lr_decay", [-0.1, np.nan, "0"]),
    (unhot.NAdam, "momentum_decay", [-0.1, np.nan, "0"]),
    (unhot.RowwiseAdagrad, "initial_accumulator_value", [-0.1, np.nan, "0"]),
    (unhot.Lion, "beta_1", [0]),
    (unhot.Ftrl, "learning_rate", [0, 0.0]),
    (unhot.Ftrl, "learning_rate_power", [0.5, -np.inf, np.nan, "0"]),
    (unhot.Ftrl, "initial_accumulator_value", [-0.1, np.nan]),
    (unhot.Ftrl, "l1_regularization_strength", [-0.1, np.nan, "0"]),
    (unhot.Ftrl, "l2_regularization_strength", [-0.1, np.nan, "0"]),
    (unhot.Ftrl, "l2_shrinkage_regularization_strength", [-0.1, np.nan, "0"]),
    (unhot.Ftrl, "beta", [-0.1, np.nan, "0"]),
]


@pytest.mark.parametrize(
    ("rule", "name", "value"),
    [(rule, name, value) for rule, name, values in BETWEEN for value in values],
    ids=lambda part: getattr(part, "__name__", repr(part)),
)
def test_hyperparameters_out_of_their_range(rule: type[Optimizer], name: str, value: Any) -> None:
    """Refused when the optimizer is made, by an error that names the rule, the hyperparameter and the value."""
    given = {name: value, **({"convention": "torch"} if name in ("dampening", "lr_decay", "momentum_decay") else {})}
    with pytest.raises((TypeError, ValueError), match=rf"{rule.__name__}: `{name}` .*Received: ") as caught:
        rule(**given)
    assert repr(value) in str(caught.value)
    assert isinstance(caught.value, TypeError) == isinstance(value, (str, bool))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: unhot.Adam(convention="jax"), "Adam: `convention` must be 'keras' or 'torch'. Received: 'jax'"),
        (lambda: unhot.SGD(convention=None), "SGD: `convention` must be .* Received: None"),
        (lambda: unhot.RAdam(convention="keras"), "RAdam: `convention` must be 'torch'. Received: 'keras'"),
        (
            lambda: unhot.SGD(dampening=0.1),
            r"`dampening` needs convention='torch' and nesterov=False\. Received: dampening=0\.1",
        ),
        (lambda: unhot.SGD(dampening=0.1, momentum=0.9, nesterov=True, convention="torch"), "nesterov=True"),
        (
            lambda: unhot.SGD(nesterov=True, convention="torch"),
            r"nesterov=True needs a momentum above 0\. Received: momentum=0",
        ),
        (lambda: unhot.Adagrad(lr_decay=0.1), "`lr_decay` needs convention='torch'. Received: lr_decay=0.1"),
        (lambda: unhot.NAdam(momentum_decay=0.1), "`momentum_decay` needs convention='torch'. Received: momentum_decay=0.1"),
        (
            lambda: unhot.Adamax(beta_1=0.999, convention="torch"),
            r"beta_1 must be at most 0\.99 beta_2.*Use convention='keras'",
        ),
        (lambda: unhot.Ftrl(initial_accumulator_value=0), "all 0: .* Give one of them a value above 0"),
        (lambda: unhot.Ftrl(10.0, l2_shrinkage_regularization_strength=0.5), r"4 l2_shrinkage rate.* Lower the rate"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_hyperparameters_that_do_not_go_together(make: Any, message: str) -> None:
    """The error says which do not, and what would."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.array(0.5), np.array(0.5, np.float16)], ids=repr)
@pytest.mark.parametrize("rule", RULES, **BY_NAME)
def test_numbers_of_numpy(rule: type[Optimizer], number: Any) -> None:
    """NumPy's numbers and 0-d arrays are numbers, and train as Python's do."""
    tables = [
        unhot.Table(3, 2, optimizer=rule(rate, **{"weight_decay": rate, **DECAYING.get(rule, {})}), seed=0)
        for rate in (0.5, number)
    ]
    for table in tables:
        table.step([1], [[1.0, 2.0]])
        table.step([2], [[1.0, 2.0]])
    np.testing.assert_array_equal(tables[0].array, tables[1].array)


@pytest.mark.parametrize(
    ("beta_1", "beta_2"), [(0.9, 0.999), (0.9, 0.95), (0.95, 0.95), (0.95, 0.9), (0.99, 0.999), (0.0, 0.999), (0.9, 0.99)]
)
@pytest.mark.parametrize("convention", ["keras", "torch"])
def test_betas_in_use(beta_1: float, beta_2: float, convention: Any) -> None:
    """Every pair in use makes a table at once and trains as one in which no row rests."""
    tables = [
        unhot.Table(4, 2, optimizer=unhot.Adam(0.01, beta_1=beta_1, beta_2=beta_2, convention=convention), dtype=dtype, seed=0)
        for dtype in ("float64", "float64")
    ]
    generator = np.random.default_rng(0)
    for step in range(120):
        dense = np.zeros((4, 2))
        ids = [step % 3] if step < 9 or step > 100 else []
        dense[ids] = generator.normal(size=(len(ids), 2))
        tables[0].step(ids, dense[ids])
        tables[1].step([0, 1, 2, 3], dense)
    np.testing.assert_allclose(tables[0].array, tables[1].array, rtol=1e-9)


def test_a_schedule_that_counts_from_0() -> None:
    """With `zero_based`, a schedule of Keras or PyTorch has the same effect as there; without it, the first step is 1."""
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, decay_steps=1, decay_rate=0.5)
    keras_weight = keras.Variable(np.zeros((1, 1), np.float32))
    keras_optimizer = keras.optimizers.SGD(schedule)
    parameter = torch.nn.Parameter(torch.zeros(1, 1))
    torch_optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(torch_optimizer, lambda epoch: 0.5 * 0.5**epoch)
    rates = (unhot.zero_based(schedule), unhot.zero_based(lambda n: 0.5 * 0.5**n), lambda n: 0.5**n)
    tables = [unhot.Table(1, 1, init="zeros", optimizer=unhot.SGD(rate)) for rate in rates]
    for expected in (-0.5, -0.75, -0.875):
        keras_optimizer.apply([keras.ops.ones((1, 1))], [keras_weight])
        parameter.grad = torch.ones(1, 1)
        torch_optimizer.step()
        scheduler.step()
        for table in tables:
            table.step([0], [[1.0]])
        assert {keras_weight.value.detach().item(), parameter.item(), *(table.array.item() for table in tables)} == {expected}


def test_what_a_schedule_gives() -> None:
    """A number, or an array without dimensions, of another framework, too; anything else is an error that names the rate."""
    for value in (0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64)):
        table = unhot.Table(1, 1, init="zeros", optimizer=unhot.SGD(lambda step, value=value: value))
        table.step([0], [[1.0]])
        assert table.array.item() == -0.5
    for wrong in (None, "0.5", True, torch.tensor(True), torch.ones(1), [0.5], 1j):
        table = unhot.Table(1, 1, init="zeros", optimizer=unhot.SGD(lambda step, value=wrong: value))
        with pytest.raises(TypeError, match="SGD: `learning_rate` must be a real number"):
            table.step([0], [[1.0]])
        assert table.array.item() == 0.0


def test_zero_based_takes_a_schedule() -> None:
    def schedule(step: int) -> float:
        return 0.5**step

    assert unhot.zero_based(schedule) == unhot.zero_based(schedule)
    assert pickle.loads(pickle.dumps(unhot.zero_based(abs)))(-2) == 3
    with pytest.raises(TypeError, match=r"`schedule` must be a callable .* Received: 0\.1 "):
        unhot.zero_based(0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is the result of `zero_based` already"):
        unhot.zero_based(unhot.zero_based(schedule))
