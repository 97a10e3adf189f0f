"""`convert` to stock layers: what torch can do with its own layers works, also where unhot is not installed."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from selection import slow
from torch import Tensor, nn
from torch.ao import quantization

import unhot.torch
from unhot.torch import TableParameter
from unhot.torch._private import ON

ROWS, DIM = 30, 4
IDS = torch.tensor([[3, 7, 7], [1, 29, 0]])


class Tower(nn.Module):
    """Two kinds of tables and a tied head."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.words = layers.Embedding(ROWS, DIM, padding_idx=1)
        self.bag = layers.EmbeddingBag(ROWS, DIM, mode="sum")
        self.head = nn.Linear(DIM, ROWS, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(ids).sum(1) + self.bag(ids)))


class Apart(nn.Module):
    """Tables of which the rows alone have gradients."""

    def __init__(self, layers: Any, **options: Any) -> None:
        super().__init__()
        self.words = layers.Embedding(ROWS, DIM, padding_idx=1, **options)
        self.bag = layers.EmbeddingBag(ROWS, DIM, mode="sum", **options)
        self.out = nn.Linear(DIM, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.words(ids).sum(1) + self.bag(ids)))


def trained(kind: Any, layers: Any, optimizers: Any, dtype: Any = torch.float64) -> tuple[Any, Any]:
    """After steps that leave rows behind."""
    torch.manual_seed(0)
    model = kind(layers).to(dtype)
    optimizer = optimizers.Adam(model.parameters(), lr=0.1)
    steps(model, optimizer)
    return model, optimizer


def steps(model: Any, optimizer: Any) -> None:
    for ids in ([[2, 3, 5]], [[7, 3, 1]], [[11, 12, 13]]):
        optimizer.zero_grad()
        model(torch.tensor(ids)).square().sum().backward()
        optimizer.step()


def close(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)  # in float64


@pytest.mark.parametrize("kind", [Tower, Apart])
def test_there_and_back(kind: Any) -> None:
    """Settled weights of dense training; the parameters and hooks that there were; and nothing of unhot's."""
    stock, stock_optimizer = trained(kind, nn, torch.optim)
    model, optimizer = trained(kind, unhot.torch, unhot.torch)
    words, weight, called = model.words, model.words.weight, []
    words.register_forward_hook(lambda *_: called.append(1))
    conversion = unhot.torch.convert(model, to="stock")
    assert conversion.model is model
    assert conversion.replaced == {"words": "unhot.torch.Embedding", "bag": "unhot.torch.EmbeddingBag"}
    assert not conversion.left
    assert model.words is words
    assert model.words.weight is weight
    for module, theirs in zip(model.modules(), stock.modules(), strict=True):
        assert type(module) is type(theirs)
        if not isinstance(module, kind):
            hooks = {"_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"}
            assert module.__dict__.keys() - hooks == theirs.__dict__.keys() - hooks
    assert all(type(parameter) is nn.Parameter and not vars(parameter) for parameter in model.parameters())
    assert repr(model) == repr(stock)
    close(dict(model.state_dict()), dict(stock.state_dict()))
    close(model(IDS), stock(IDS))
    assert called
    steps(stock, stock_optimizer)
    steps(model, optimizer)  # which has no tables any more
    optimizer.load_state_dict(optimizer.state_dict())
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())
    close(dict(model.state_dict()), dict(stock.state_dict()))
    assert unhot.torch.convert(model).replaced == {"words": "Embedding", "bag": "EmbeddingBag"}
    assert isinstance(model.words.weight, TableParameter)
    again = unhot.torch.Adam(model.parameters(), lr=0.1)
    again.load_state_dict(copy.deepcopy(stock_optimizer.state_dict()))
    steps(stock, stock_optimizer)
    steps(model, again)
    close(dict(model.state_dict()), dict(stock.state_dict()))


def test_gradients_are_those_of_stock_layers() -> None:
    models = []
    for layers, optimizers in ((nn, torch.optim), (unhot.torch, unhot.torch)):
        model, _ = trained(Apart, layers, optimizers)
        model.zero_grad()
        model(IDS).square().sum().backward()
        models.append(model)
    unhot.torch.convert(models[1], to="stock")
    for mine, other in zip(models[1].parameters(), models[0].parameters(), strict=True):
        assert type(mine.grad) is Tensor
        close(mine.grad, other.grad)
    for model in models:
        torch.optim.SGD(model.parameters(), lr=0.1).step()
    close(dict(models[1].state_dict()), dict(models[0].state_dict()))


@pytest.mark.parametrize("sparse", [None, False, True])
def test_sparse_stays_as_it_was_given(sparse: bool | None) -> None:
    model = Apart(unhot.torch, sparse=sparse)
    unhot.torch.convert(model, to="stock")
    assert model.words.sparse is model.bag.sparse is bool(sparse)
    unhot.torch.convert(model)
    model(IDS).sum().backward()
    assert model.words.weight.grad.is_sparse is bool(sparse)


BLOCKED = """
import sys
sys.modules["unhot"] = None
import torch
model, ids, expected = torch.load(sys.argv[1], weights_only=False)
assert torch.equal(model(ids), expected)
torch.nn.Sequential(*model).load_state_dict(torch.load(sys.argv[2]))
assert type(model[0].weight) is torch.nn.Parameter
torch.optim.Adam(model.parameters()).load_state_dict(torch.load(sys.argv[3]))
"""


@slow  # another process imports torch
def test_files_are_read_where_unhot_is_not_installed(tmp_path: Path) -> None:
    """A pickled module, its state and the state of the optimizer."""
    model = nn.Sequential(unhot.torch.Embedding(ROWS, DIM), nn.Flatten(), nn.Linear(3 * DIM, 1))
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.1)
    steps(model, optimizer)
    unhot.torch.convert(model, to="stock")
    paths = [str(tmp_path / name) for name in ("model", "state", "optimizer")]
    for saved, path in zip(((model, IDS, model(IDS)), model.state_dict(), optimizer.state_dict()), paths, strict=True):
        torch.save(saved, path)
    subprocess.run([sys.executable, "-c", BLOCKED, *paths], check=True, timeout=120)


def both(kind: Any) -> tuple[Any, Any]:
    """A stock model and one that was converted to stock, with the same weights."""
    model, _ = trained(kind, unhot.torch, unhot.torch, torch.float32)
    stock = kind(nn)
    stock.load_state_dict(model.state_dict())
    unhot.torch.convert(model, to="stock")
    return model.eval(), stock.eval()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_it_is_scripted_and_exported() -> None:
    model, stock = both(Apart)
    expected = stock(IDS)
    assert torch.equal(torch.jit.script(model)(IDS), expected)
    assert torch.equal(torch.jit.trace(model, (IDS,))(IDS), expected)
    assert torch.equal(torch.export.export(model, (IDS,)).module()(IDS), expected)
    assert torch.equal(torch.fx.symbolic_trace(model)(IDS), expected)
    assert torch.equal(torch.func.functional_call(copy.deepcopy(model), stock.state_dict(), (IDS,)), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.ao
@pytest.mark.parametrize("way", ["dynamic", "static"])
def test_it_is_quantized(way: str) -> None:
    """The same classes, and the same results, as of a stock model."""

    def quantized(model: Any) -> Any:
        weights = quantization.float_qparams_weight_only_qconfig
        if way == "dynamic":
            return quantization.quantize_dynamic(model, {nn.Embedding: weights, nn.EmbeddingBag: weights}, dtype=torch.quint8)
        model.words.qconfig = model.bag.qconfig = weights
        prepared = quantization.prepare(model)
        prepared(IDS)
        return quantization.convert(prepared)

    torch.manual_seed(0)
    model, stock = both(Apart)
    mine, theirs = quantized(model), quantized(stock)
    assert type(theirs.words) is not nn.Embedding
    assert type(theirs.bag) is not nn.EmbeddingBag
    assert [type(module) for module in mine.modules()] == [type(module) for module in theirs.modules()]
    assert torch.equal(mine(IDS), theirs(IDS))


class Own(unhot.torch.Embedding):
    """A subclass."""


LEFT = {
    "bias": (lambda: unhot.torch.Embedding(ROWS, DIM, bias=True), "torch.nn.Embedding has no bias"),
    "activation": (lambda: unhot.torch.Embedding(ROWS, DIM, activation=torch.relu), "has no activation"),
    "zero": (lambda: unhot.torch.Embedding(ROWS, DIM, out_of_range="zero"), "has no out_of_range"),
    "row": (lambda: unhot.torch.Embedding(ROWS, DIM, bias=True, out_of_range=2), "has no bias and no out_of_range"),
    "subclass": (lambda: Own(ROWS, DIM), "Own is a subclass of unhot's layer"),
    "parametrized": (
        lambda: nn.utils.parametrizations.weight_norm(unhot.torch.Embedding(ROWS, DIM)), "its weight is parametrized"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_torch_has_no_equal_of_is_left_alone(name: str) -> None:
    """With what shares its weight; its owner goes on training it by rows."""
    if name == "parametrized" and not ON:
        pytest.skip("parametrizations make a parameter of a table")
    build, why = LEFT[name]
    layer = build()
    model = nn.ModuleDict({"left": layer, "other": unhot.torch.Embedding(ROWS, DIM)})
    if name != "parametrized":
        model["tied"] = unhot.torch.EmbeddingBag(ROWS, DIM)
        model["tied"].weight = layer.weight
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.1)
    for ids in ([2, 3], [5, 7]):
        optimizer.zero_grad()
        sum(part(torch.tensor([ids])).square().sum() for part in model.values()).backward()
        optimizer.step()
    conversion = unhot.torch.convert(model, to="stock")
    assert list(conversion.replaced) == ["other"]
    assert why in conversion.left.pop("left")
    assert list(conversion.left.values()) == ["it shares its weight with left, which is left alone"] * ("tied" in model)
    assert model["left"] is layer
    assert type(model["other"]) is nn.Embedding
    if "tied" in model:
        assert isinstance(layer.weight, TableParameter)
        assert layer.weight.ownership is not None
        assert layer.weight.ownership.owner is optimizer


def test_to_unhot_leaves_parametrized_layers_alone() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Embedding(ROWS, DIM)))
    conversion = unhot.torch.convert(model)
    assert not conversion.replaced
    assert "remove_parametrizations" in conversion.left["0"]


def test_a_layer_in_two_places_is_one_layer() -> None:
    layer = unhot.torch.Embedding(ROWS, DIM)
    model = nn.ModuleList([layer, nn.Sequential(layer)])
    assert list(unhot.torch.convert(model, to="stock").replaced) == ["0"]
    assert model[0] is model[1][0]
    assert type(layer) is nn.Embedding


def test_bad_input() -> None:
    with pytest.raises(TypeError, match=r"takes a module of torch\. Received: list"):
        unhot.torch.convert([nn.Embedding(3, 2)])  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"`to` is 'unhot' or 'stock'\. Received: 'torch'"):
        unhot.torch.convert(nn.Embedding(3, 2), to="torch")  # type: ignore[arg-type]


def test_collections_stay_with_torchs_layers_inside() -> None:
    model = nn.ModuleDict({"tables": unhot.torch.EmbeddingCollection({"a": (ROWS, DIM)})})
    conversion = unhot.torch.convert(model, to="stock")
    assert list(conversion.replaced) == ["tables.embeddings.a"]
    assert conversion.left == {"tables": "torch has no EmbeddingCollection. It calls the layers inside"}
    assert model["tables"]({"a": torch.tensor([1, 2])}).shape == (2, DIM)
    assert not unhot.torch.convert(model).left
