"""Collections of tables against the same tables of torch's own, one by one, trained by torch's own optimizers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from selection import product
from torch import Tensor, nn

import unhot.torch
from unhot.torch import EmbeddingBagConfig, EmbeddingConfig
from unhot.torch.placement import KERNELS

from .twins import by_rows, close, default_device

pytestmark = pytest.mark.usefixtures("_double")

SIZES = {"user": (20, 3), "item": (30, 5), "word": (12, 2)}
FEATURES = {"user": "user", "friend": "user", "item": "item", "word": "word"}
BATCH = 4


@pytest.fixture
def _double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def configs(kind: Any, **options: Any) -> list[Any]:
    return [
        kind(*SIZES[table], table, [feature for feature, of in FEATURES.items() if of == table], **options) for table in SIZES
    ]


class Apart(nn.Module):
    """Torch's own layers, and how a feature's vectors are found in them."""

    def __init__(self, layers: dict[str, nn.Module], output: str) -> None:
        super().__init__()
        self.layers, self.output = nn.ModuleDict(layers), output

    def forward(self, features: dict[str, Any]) -> Any:
        found = {}
        for name, table in FEATURES.items():
            ids = features[name]
            if isinstance(self.layers[table], nn.EmbeddingBag) and isinstance(ids, Tensor) and ids.dim() == 1:
                ids = ids.unsqueeze(1)
            if isinstance(ids, tuple) and ids[1] is None and ids[0].dim() == 1:
                ids = ids[0].unsqueeze(1), None, ids[2].unsqueeze(1)
            found[name] = self.layers[table](*ids) if isinstance(ids, tuple) else self.layers[table](ids)
        return torch.cat(list(found.values()), -1) if self.output == "concatenated" else found


def pair(pooling: str, output: str, padding_idx: int | None = None) -> tuple[Any, Any]:
    """A collection, and torch's own layers with the same weights."""
    torch.manual_seed(0)
    ours: Any
    if pooling:
        bag_configs = configs(EmbeddingBagConfig, pooling=pooling, padding_idx=padding_idx)
        ours = unhot.torch.EmbeddingBagCollection(bag_configs, output=output)
        options: dict[str, Any] = {"mode": pooling, "padding_idx": padding_idx}
        apart = {name: nn.EmbeddingBag(*size, **options) for name, size in SIZES.items()}
    else:
        ours = unhot.torch.EmbeddingCollection(configs(EmbeddingConfig), output=output)
        apart = {name: nn.Embedding(*size) for name, size in SIZES.items()}
    for name, layer in apart.items():
        layer.load_state_dict(ours.layers[name].state_dict())
    return ours, Apart(apart, output)


def batch(rng: np.random.Generator, pooling: str, step: int) -> dict[str, Any]:
    """Ids of each feature: most rows rest for long; bags are padded, flat (some of them empty), or of one id."""
    found: dict[str, Any] = {}
    for k, (feature, table) in enumerate(FEATURES.items()):
        rows = SIZES[table][0] if step % 15 == 0 else 6
        if not pooling:
            found[feature] = torch.from_numpy(rng.integers(0, rows, BATCH))
        elif (step + k) % 3 == 0:
            found[feature] = torch.from_numpy(rng.integers(0, rows, (BATCH, 3)))
        elif (step + k) % 3 == 1:
            found[feature] = torch.from_numpy(rng.integers(0, rows, BATCH))
        else:
            counts = rng.integers(0, 3, BATCH)
            ids = torch.from_numpy(rng.integers(0, rows, counts.sum()))
            found[feature] = (ids, torch.from_numpy(np.concatenate([[0], counts.cumsum()[:-1]])))
    return found


def loss(found: Any) -> Tensor:
    parts = list(found.values()) if isinstance(found, dict) else [found]
    total: Tensor = sum((part - torch.arange(part.numel()).reshape(part.shape).cos()).pow(2).sum() for part in parts)  # type: ignore[assignment]
    return total


def weights(layer: Any) -> dict[str, Tensor]:
    return {name.split(".")[-2]: weight.detach() for name, weight in layer.named_parameters()}


def same(ours: Any, theirs: Any) -> None:
    expected = weights(theirs)
    assert weights(ours).keys() == expected.keys()
    for name, weight in weights(ours).items():
        close(weight, expected[name])


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 0.05}, "SGD": {"lr": 0.05, "momentum": 0.9}, "Adagrad": {"lr": 0.1}, "NAdam": {"lr": 0.05},
}  # fmt: skip


@pytest.mark.parametrize(("optimizer", "pooling", "output"), product(OPTIMIZERS, ["", "sum", "mean"], ["concatenated", "dict"]))
def test_as_tables_apart(optimizer: str, pooling: str, output: str) -> None:
    """Vectors, and weights after each of many steps; features share a table, bags are empty, tables are of all sizes."""
    layers = pair(pooling, output)
    optimizers = [
        getattr(module, optimizer)(layer.parameters(), **OPTIMIZERS[optimizer])
        for layer, module in zip(layers, (unhot.torch, torch.optim), strict=True)
    ]
    rng = np.random.default_rng(0)
    for step in range(40):
        given = batch(rng, pooling, step)
        found = [layer(given) for layer in layers]
        for a, b in zip(*(one.values() if output == "dict" else [one] for one in found), strict=True):
            close(a, b)
        for one, made in zip(found, optimizers, strict=True):
            made.zero_grad()
            loss(one).backward()
            made.step()
    engines = {id(weight.ownership.backend.engine) for weight in layers[0].parameters()}
    assert len(engines) == 1, "one call for all tables"
    same(*layers)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("output", "padding_idx"), [("concatenated", None), ("dict", 2)])
def test_weights_of_ids(output: str, padding_idx: int | None, trained: bool) -> None:
    """Of padded and of flat ids, of some features; they may have a gradient, too."""
    layers = pair("sum", output, padding_idx)
    optimizers = [
        module.AdamW(layer.parameters(), lr=0.05) for layer, module in zip(layers, (unhot.torch, torch.optim), strict=True)
    ]
    rng = np.random.default_rng(1)
    for step in range(20):
        given = batch(rng, "sum", step)
        for name in list(given)[:2]:
            ids, offsets = given[name] if isinstance(given[name], tuple) else (given[name], None)
            factors = torch.from_numpy(rng.normal(size=tuple(ids.shape))).requires_grad_(trained)
            given[name] = (ids, offsets, factors)
        gradients = []
        for layer, optimizer in zip(layers, optimizers, strict=True):
            optimizer.zero_grad()
            loss(layer(given)).backward()
            own = [part[2] for part in given.values() if isinstance(part, tuple) and len(part) == 3]
            gradients.append([None if factors.grad is None else factors.grad.clone() for factors in own])
            for factors in own:
                factors.grad = None
            optimizer.step()
        for ours, theirs in zip(*gradients, strict=True):
            assert (ours is not None) == trained
            if ours is not None and theirs is not None:
                close(ours, theirs)
    same(*layers)


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_padding_does_not_count(pooling: str) -> None:
    layers = pair(pooling, "concatenated", padding_idx=2)
    optimizers = [unhot.torch.AdamW(layers[0].parameters(), lr=0.05), torch.optim.AdamW(layers[1].parameters(), lr=0.05)]
    rng = np.random.default_rng(0)
    for step in range(20):
        given = batch(rng, pooling, step)
        for layer, optimizer in zip(layers, optimizers, strict=True):
            optimizer.zero_grad()
            loss(layer(given)).backward()
            optimizer.step()
    same(*layers)


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
@pytest.mark.parametrize("how", ["in one call", "on other devices", "one by one"])
def test_every_table_makes_every_step(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables whose features have no ids, or whose vectors do not matter to the loss, move on as in dense training."""
    monkeypatch.setenv(KERNELS, "torch" if how == "on other devices" else "native")
    ours = unhot.torch.EmbeddingBagCollection({"a": (5, 2), "b": (5, 2)}, output="dict")
    if how == "one by one":
        ours.embedding_bags["a"].register_forward_hook(lambda *_: None)
    theirs = {name: copy.deepcopy(layer.weight.detach()).requires_grad_() for name, layer in ours.embedding_bags.items()}
    optimizers = [unhot.torch.AdamW(ours.parameters(), lr=0.1), torch.optim.AdamW(theirs.values(), lr=0.1)]
    none = torch.empty(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    for step in range(10):
        found = ours({"a": torch.tensor([[step % 5], [1]]), "b": none if step % 2 else torch.tensor([[3], [3]])})
        optimizers[0].zero_grad()
        (found["a"] if step % 3 else found["a"] + found["b"]).pow(2).sum().backward(create_graph=step in (5, 8))
        optimizers[0].step()
        for weight in theirs.values():
            weight.grad = torch.zeros_like(weight)
        a = theirs["a"][[step % 5, 1]]
        b = torch.zeros(2, 2) if step % 2 else theirs["b"][[3, 3]]
        (a if step % 3 else a + b).pow(2).sum().backward()
        optimizers[1].step()
    for name, weight in theirs.items():
        close(ours.embedding_bags[name].weight, weight)


def hooked(layer: Any) -> None:
    layer.register_full_backward_hook(lambda _, __, given: (given[0].norm(), None)[1])
    layer.register_full_backward_pre_hook(lambda _, given: (2 * given[0],))
    layer.register_forward_hook(lambda _, __, found: (found.register_hook(lambda gradient: 1 * gradient), None)[1])


class Passed(torch.autograd.Function):
    """A function of a user's."""

    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        return given.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad


ONE_BY_ONE: dict[str, Any] = {
    "a hook": hooked,
    "another dtype": lambda layer: setattr(layer, "activation", Tensor.double),
    "another device": lambda layer: setattr(layer, "activation", lambda found: found.to("meta")),
    "a function": lambda layer: setattr(layer, "activation", Passed.apply),
    "several values": lambda layer: layer.register_forward_hook(lambda _, __, found: (found, 1)),
    "frozen": lambda layer: layer.weight.requires_grad_(False),
    "sparse": lambda layer: setattr(layer, "sparse", True),
    "dense": lambda layer: setattr(layer, "sparse", False),
    "bfloat16": lambda layer: layer.to(torch.bfloat16),
}


@pytest.mark.filterwarnings("error::unhot.DenseFallbackWarning")
@pytest.mark.parametrize("what", ONE_BY_ONE)
def test_a_layer_that_does_more_and_does_not_matter(what: str) -> None:
    """Nothing of it is run in the backward pass, no row of it is named, and its gradient is of the kind that it asks for."""
    layer = unhot.torch.EmbeddingCollection({"a": (5, 2), "b": (5, 2)}, output="dict")
    optimizer = unhot.torch.LazyAdam(layer.parameters(), lr=0.1)
    ONE_BY_ONE[what](layer.embeddings["b"])
    before = layer.embeddings["b"].weight.detach().clone()
    for _ in range(2):
        found = layer({"a": torch.tensor([1, 2]), "b": torch.tensor([3, 4])})
        found["a"].sum().backward()  # twice: gradients are accumulated
    gradient = layer.embeddings["b"].weight.grad
    if what in ("frozen", "sparse", "dense", "bfloat16"):
        assert gradient is None
    else:
        assert by_rows(gradient)
        assert gradient.dtype == before.dtype
        assert not len(gradient.ids)
    optimizer.step()
    assert torch.equal(layer.embeddings["b"].weight, before)


def test_what_people_do_around_it() -> None:
    """Reads, copies, checkpoints, single lookups, a penalty on one table, a rate that changes: as with tables apart."""
    layers = list(pair("", "concatenated"))
    optimizers = [unhot.torch.Adam(layers[0].parameters(), lr=0.05), torch.optim.Adam(layers[1].parameters(), lr=0.05)]
    rng = np.random.default_rng(0)
    for step in range(60):
        given = batch(rng, "", step)
        for k, (layer, optimizer) in enumerate(zip(layers, optimizers, strict=True)):
            optimizer.zero_grad()
            total = loss(layer(given))
            if step % 11 == 5:
                total = total + layer.layers["item"].weight.pow(2).sum()  # dense
            if step % 7 == 3:
                total = total + layer.layers["word"](torch.tensor([1, 2])).sum()  # two gradients of one table
            total.backward()
            if step % 13 == 6:
                torch.nn.utils.clip_grad_norm_(layer.parameters(), 0.5)
            optimizer.param_groups[0]["lr"] = 0.05 / (1 + step % 4)
            optimizer.step()
            if step == 30:
                saved, state = copy.deepcopy(layer.state_dict()), copy.deepcopy(optimizer.state_dict())
                layers[k] = layer = copy.deepcopy(layer)
                layer.load_state_dict(saved)
                optimizers[k] = type(optimizer)(layer.parameters(), lr=0.05)
                optimizers[k].load_state_dict(state)
    same(*layers)
    for ours, theirs in zip(
        optimizers[0].state_dict()["state"].values(), optimizers[1].state_dict()["state"].values(), strict=True
    ):
        for name, value in theirs.items():
            close(ours[name], value)


class Model(nn.Module):
    """Two collections and a table of its own, which one optimizer trains."""

    def __init__(self, parts: list[Any], own: nn.Module) -> None:
        super().__init__()
        self.parts, self.own = nn.ModuleList(parts), own


@pytest.mark.parametrize("pooling", ["", "mean"])
def test_gradients_that_are_one_piece_or_not(pooling: str) -> None:
    """Two collections and a table beside them make one step; some gradients are changed, or of two lookups; ids are reused."""
    sides = list(zip(*(pair(pooling, "concatenated") for _ in range(2)), strict=True))
    models = [Model(list(sides[0]), unhot.torch.Embedding(9, 4)), Model(list(sides[1]), nn.Embedding(9, 4))]
    models[1].own.load_state_dict(models[0].own.state_dict())
    optimizers = [unhot.torch.AdamW(models[0].parameters(), lr=0.05), torch.optim.AdamW(models[1].parameters(), lr=0.05)]
    rng = np.random.default_rng(0)
    for step in range(40):
        given = [batch(rng, pooling, step), batch(rng, pooling, step)]
        own = torch.from_numpy(rng.integers(0, 9, 3))
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            ids = copy.deepcopy(given)
            found = [part(features) for part, features in zip(model.parts, ids, strict=True)]
            if step % 5 == 2:
                found.append(model.parts[0](ids[1]))
            for features in ids if model is models[0] else []:  # our lookup has copied them
                for value in features.values():
                    (value[0] if isinstance(value, tuple) else value).zero_()
            (sum(map(loss, found)) + model.own(own).sin().sum()).backward()  # type: ignore[operator]
            item = model.parts[1].layers["item"].weight  # type: ignore[union-attr,index]
            if step % 4 == 1:
                item.grad *= 0.5
            if step % 7 == 3:
                item.grad[:3] = 0
            if step % 6 == 5:
                item.grad = None
            if step % 9 == 7:  # the step makes its tables anew, in another order
                assert optimizer.state
                optimizer.param_groups[0]["params"].reverse()
            optimizer.step()
    for side in zip(models[0].parts, models[1].parts, strict=True):
        same(*side)
    close(models[0].own.weight, models[1].own.weight)


def test_double_backward() -> None:
    """A gradient through which autograd goes on is that of tables apart."""
    for pooling in ("", "mean"):
        layers = pair(pooling, "concatenated")
        if pooling:  # torch's own bags have no second derivative; vectors of ids, and a matrix, have
            layers = layers[0], copy.deepcopy(layers[0])
            layers[1].forward = lambda given, layer=layers[1]: pooled_by_hand(layer, given)  # type: ignore[method-assign]
        optimizer = unhot.torch.SGD(layers[0].parameters(), lr=0.1)
        given = batch(np.random.default_rng(1), pooling, 2)
        found = []
        for layer in layers:
            names = sorted(weights(layer))
            by_name = dict(zip([n.split(".")[-2] for n, _ in layer.named_parameters()], layer.parameters(), strict=True))
            parameters = [by_name[name] for name in names]
            first = torch.autograd.grad(loss(layer(given)).pow(2), parameters, create_graph=True)
            total = sum(part.pow(2).sum() for part in first)
            found.append(torch.autograd.grad(total, parameters))
        assert optimizer is not None
        for a, b in zip(*found, strict=True):
            close(a, b)


def pooled_by_hand(layer: Any, given: dict[str, Any]) -> Tensor:
    """Means of bags, as a product of a matrix and the weights."""
    found = []
    for feature, table in FEATURES.items():
        ids = given[feature]
        flat, offsets = ids if isinstance(ids, tuple) else (ids.reshape(-1), torch.arange(BATCH) * (ids.numel() // BATCH))
        stops = torch.cat([offsets[1:], torch.tensor([len(flat)])])
        matrix = torch.zeros(BATCH, SIZES[table][0])
        for sample, (start, stop) in enumerate(zip(offsets.tolist(), stops.tolist(), strict=True)):
            for row in flat[start:stop].tolist():
                matrix[sample, row] += 1 / (stop - start)
        found.append(matrix @ layer.layers[table].weight)
    return torch.cat(found, -1)


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
def test_before_there_is_an_optimizer_and_with_a_stock_one() -> None:
    layers = pair("sum", "concatenated")
    optimizers = [torch.optim.Adam(layer.parameters(), lr=0.05) for layer in layers]
    rng = np.random.default_rng(0)
    for step in range(6):
        given = batch(rng, "sum", step)
        for layer, optimizer in zip(layers, optimizers, strict=True):
            optimizer.zero_grad()
            loss(layer(given)).backward()
            optimizer.step()
    same(*layers)


ONE = torch.tensor([1])

BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no tables": (lambda: unhot.torch.EmbeddingCollection({}), ValueError, "at least one table"),
    "a size": (lambda: unhot.torch.EmbeddingCollection({"a": 3}), TypeError, r"\(num_embeddings, embedding_dim\) by name"),  # type: ignore[dict-item]
    "an output": (lambda: unhot.torch.EmbeddingCollection({"a": (3, 2)}, output="list"), ValueError, "`output` must be"),
    "a name twice": (
        lambda: unhot.torch.EmbeddingCollection([EmbeddingConfig(3, 2, "a"), EmbeddingConfig(3, 2, "a", ["b"])]),
        ValueError, "two tables have the name 'a'",
    ),
    "a feature twice": (
        lambda: unhot.torch.EmbeddingCollection([EmbeddingConfig(3, 2, "a"), EmbeddingConfig(3, 2, "b", ["a"])]),
        ValueError, "the feature 'a' is that of 'a' and 'b'",
    ),
    "a name that modules cannot have": (
        lambda: unhot.torch.EmbeddingCollection({"type": (3, 2)}), ValueError, r"name 'type'.*feature_names=\['type'\]",
    ),
    "a name with a dot": (lambda: unhot.torch.EmbeddingCollection({"a.b": (3, 2)}), ValueError, "'a.b'"),
    "pooling": (
        lambda: unhot.torch.EmbeddingBagCollection([EmbeddingBagConfig(3, 2, "a", pooling="max")]), ValueError, "'max'",
    ),
    "a feature missing": (
        lambda: unhot.torch.EmbeddingCollection({"a": (3, 2)})({"b": torch.tensor([1])}), KeyError, r"Missing: \['a'\]",
    ),
    "another number of samples": (
        lambda: unhot.torch.EmbeddingCollection({"a": (3, 2), "b": (3, 2)})({"a": ONE, "b": torch.tensor([1, 2])}),
        ValueError, "the same number of samples",
    ),
    "no dict": (lambda: unhot.torch.EmbeddingCollection({"a": (3, 2)})(ONE), TypeError, "in a dict, by feature"),
    "ids of another kind": (
        lambda: unhot.torch.EmbeddingBagCollection({"a": (3, 2)})({"a": [1]}), TypeError, "flat ids with offsets",
    ),
    "offsets": (
        lambda: unhot.torch.EmbeddingBagCollection({"a": (3, 2)})({"a": (torch.tensor([1]), torch.tensor([1]))}),
        ValueError, "must begin with 0",
    ),
    "weights of another shape": (
        lambda: unhot.torch.EmbeddingBagCollection({"a": (3, 2)})({"a": (ONE, None, torch.ones(2))}),
        TypeError, r"with weights of the shape of the ids, \(ids, offsets or None, weights\)",
    ),
    "weights and a mean": (
        lambda: unhot.torch.EmbeddingBagCollection([EmbeddingBagConfig(3, 2, "a", pooling="mean")])(
            {"a": (ONE, None, torch.ones(1))}
        ),
        ValueError, "weights need pooling 'sum'. Received: 'mean' for 'a'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


def test_an_id_out_of_range_is_an_error_and_loses_nothing() -> None:
    layer = unhot.torch.EmbeddingCollection({"a": (3, 2), "b": (3, 2)})
    optimizer = unhot.torch.SGD(layer.parameters(), lr=0.1)
    with pytest.raises(IndexError, match="id 3 of 'b' at position 0"):
        layer({"a": torch.tensor([1]), "b": torch.tensor([3])})
    layer({"a": torch.tensor([1]), "b": torch.tensor([2])}).sum().backward()
    optimizer.step()


def test_the_position_of_an_id_is_that_among_the_given() -> None:
    layer = unhot.torch.EmbeddingBagCollection([EmbeddingBagConfig(3, 2, "a", padding_idx=0)])
    optimizer = unhot.torch.SGD(layer.parameters(), lr=0.1)
    with pytest.raises(IndexError, match=r"id -1 of 'a' at position \(1, 2\)"):
        layer({"a": torch.tensor([[1, 0, 0], [1, 0, -1]])})
    assert optimizer is not None


@pytest.mark.parametrize("kind", [unhot.torch.EmbeddingCollection, unhot.torch.EmbeddingBagCollection])
def test_another_default_device(kind: Any) -> None:
    """Tables and ids lie where they were made, as with torch's own layers."""
    layer = kind({"a": (5, 2), "b": (5, 2)}, output="dict")
    optimizer = unhot.torch.AdamW(layer.parameters())
    ids = torch.tensor([[1, 2], [3, 1]])
    with default_device("meta"):
        for _ in range(3):
            optimizer.zero_grad()
            found = layer({"a": ids, "b": ids})["a"]
            found.sum().backward()
            assert nn.utils.clip_grad_norm_(layer.parameters(), 0.1).is_cpu
            optimizer.step()
    assert found.is_cpu


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def another_layer(layers: Any, **options: Any) -> None:
    layers["user"] = unhot.torch.Embedding(*SIZES["user"], **options)


MORE: dict[str, Any] = {
    "a hook": lambda layers: layers["user"].register_forward_hook(lambda _, given, found: found * 2),
    "a hook before": lambda layers: layers["user"].register_forward_pre_hook(lambda _, given: (given[0] // 2, *given[1:])),
    "a hook of gradients": lambda layers: layers["user"].register_full_backward_pre_hook(lambda _, given: (given[0] * 2,)),
    "a norm": lambda layers: setattr(layers["user"], "max_norm", 0.1),
    "a parametrization": lambda layers: nn.utils.parametrize.register_parametrization(layers["user"], "weight", Doubled()),
    "padding": lambda layers: setattr(layers["user"], "padding_idx", 2),
    "sparse": lambda layers: setattr(layers["user"], "sparse", True),
    "frequencies": lambda layers: setattr(layers["user"], "scale_grad_by_freq", True),
    "bias": lambda layers: another_layer(layers, bias=True),
    "activation": lambda layers: another_layer(layers, activation=torch.sin),
    "activation layer": lambda layers: another_layer(layers, activation=nn.Tanh()),
    "out of range": lambda layers: another_layer(layers, out_of_range="zero"),
    "largest": lambda layers: setattr(layers["user"], "mode", "max"),
    "torch's": lambda layers: unhot.torch.convert(layers["user"], to="stock"),
}


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize(("what", "pooling"), product(MORE, ["", "mean"]))
def test_layers_that_do_more_than_to_look_up(what: str, pooling: str) -> None:
    """The tables are ordinary layers: what is done to one of them counts, as when it is called alone."""
    if what in ("bias", "activation", "activation layer", "out of range") if pooling else what == "largest":
        pytest.skip("not of such layers")
    ours, _ = pair(pooling, "dict")
    MORE[what](ours.layers)
    twin = copy.deepcopy(ours)
    optimizers = [unhot.torch.SGD(layer.parameters(), lr=0.1) for layer in (ours, twin)]
    rng = np.random.default_rng(0)
    for step in range(4):
        given = batch(rng, pooling, 3 * step)
        if what == "out of range":
            given["user"][0] = 99
        apart = {}
        for name, table in FEATURES.items():
            ids = given[name]
            padded = ids.unsqueeze(1) if pooling and isinstance(ids, Tensor) and ids.dim() == 1 else ids
            apart[name] = twin.layers[table](*padded) if isinstance(padded, tuple) else twin.layers[table](padded)
        found = ours(given)
        for name, vectors in apart.items():
            close(found[name], vectors)
        for vectors, optimizer in zip((found, apart), optimizers, strict=True):
            optimizer.zero_grad()
            loss(vectors).backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), twin.parameters(), strict=True):
        close(one, other)


@pytest.mark.parametrize("by", ["trace", "export"])
@pytest.mark.parametrize("kind", ["", "padded", "padding", "flat"])
def test_a_trained_collection_is_traced(by: str, kind: str) -> None:
    """With other numbers of samples, too."""
    ours, _ = pair("sum" if kind else "", "concatenated", 0 if kind == "padding" else None)
    optimizer = unhot.torch.SGD(ours.parameters(), lr=0.1, momentum=0.9)

    def given(samples: int) -> dict[str, Any]:
        if kind == "flat":
            return {name: (torch.arange(2 * samples) % 5, 2 * torch.arange(samples)) for name in FEATURES}
        return {name: torch.arange(2 * samples).reshape(samples, 2) % 5 if kind else torch.arange(samples) for name in FEATURES}

    for _ in range(3):
        optimizer.zero_grad()
        ours(given(4)).sum().backward()
        optimizer.step()
    traced: Any
    if by == "trace":
        traced = torch.jit.trace(ours, (given(4),), strict=False)  # type: ignore[no-untyped-call]
    else:
        auto = torch.export.Dim.AUTO
        shapes = {name: ({0: auto}, {0: auto}) if kind == "flat" else {0: auto} for name in FEATURES}
        traced = torch.export.export(ours.eval(), (given(4),), dynamic_shapes=(shapes,)).module()
    for samples in (4, 7):
        close(traced(given(samples)), ours(given(samples)))


def test_torchrecs_configurations_work() -> None:
    """They have the same attributes; pooling is an enumeration there."""
    import enum
    from types import SimpleNamespace

    pooling = enum.Enum("pooling", {"SUM": "SUM", "MEAN": "MEAN"})
    config = SimpleNamespace(num_embeddings=4, embedding_dim=2, name="t", feature_names=["f", "g"], pooling=pooling.MEAN)
    layer = unhot.torch.EmbeddingBagCollection([config])
    ids = torch.tensor([[1, 2]])
    close(layer({"f": ids, "g": ids}), layer.embedding_bags["t"].weight[[1, 2]].mean(0).repeat(2).unsqueeze(0))
    assert list(layer.state_dict()) == ["embedding_bags.t.weight"]
