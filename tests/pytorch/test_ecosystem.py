"""The layers and optimizers inside what people train with: each in a real loop, compared with torch's own in the same loop."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils.data import DataLoader, TensorDataset

import unhot.torch

from .twins import OLD, by_rows, default_device

ROWS, DIM, STEPS = 40, 4, 30
PATIENCE = timedelta(seconds=60)
"""For other processes; what waits longer has failed."""


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Model(nn.Module):
    """A table, a bag of another, and a dense part."""

    def __init__(self, layers: Any = nn) -> None:
        super().__init__()
        self.table = layers.Embedding(ROWS, DIM, padding_idx=0)
        self.bag = layers.EmbeddingBag(ROWS, DIM, mode="sum")
        self.dense = nn.Sequential(nn.Linear(2 * DIM, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, ids: Tensor) -> Tensor:
        return self.dense(torch.cat([self.table(ids[:, 0]), self.bag(ids)], dim=1)).squeeze(1)


def twins(name: str = "AdamW", **options: Any) -> list[tuple[Model, torch.optim.Optimizer]]:
    """Torch's model with torch's optimizer, and ours with ours; the same weights."""
    torch.manual_seed(0)
    theirs, ours = Model(), Model(unhot.torch)
    ours.load_state_dict(theirs.state_dict())
    made = [(theirs, torch.optim), (ours, unhot.torch)]
    return [(model, getattr(module, name)(model.parameters(), **{"lr": 0.02, **options})) for model, module in made]


def data() -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(np.minimum(rng.geometric(0.1, size=(STEPS * 8, 3)), ROWS - 1))
    return ids, torch.sin(ids.double().sum(1))


def batches() -> list[tuple[Tensor, Tensor]]:
    ids, wanted = data()
    return list(zip(ids.split(8), wanted.split(8), strict=True))


def loss_of(model: Callable[[Tensor], Tensor], ids: Tensor, wanted: Tensor) -> Tensor:
    return (model(ids) - wanted).pow(2).mean()


def same(pair: list[tuple[Model, Any]], rtol: float = 1e-8) -> None:
    (theirs, _), (ours, _) = pair
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=rtol, atol=rtol, err_msg=name)


def is_row_sparse(model: Model) -> bool:
    grads = [model.table.weight.grad, model.bag.weight.grad]
    return all(map(by_rows, grads))


def test_gradient_accumulation_and_clipping() -> None:
    """Several backward passes before a step, clipped by the norm of all gradients."""
    pair = twins()
    for model, optimizer in pair:
        clip = unhot.torch.clip_grad_norm_ if optimizer.__module__.startswith("unhot") else nn.utils.clip_grad_norm_
        for i, (ids, wanted) in enumerate(batches()):
            (loss_of(model, ids, wanted) / 3).backward()
            if i % 3 == 2:
                clip(model.parameters(), 0.05)
                optimizer.step()
                optimizer.zero_grad()
    same(pair)


def test_autocast_and_gradient_scaling() -> None:
    """In float32 with bfloat16 inside, and a scaler that finds infinities and skips those steps."""
    torch.set_default_dtype(torch.float32)
    pair = twins()
    skipped = []
    for model, optimizer in pair:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5)
        scales = []
        for i, (ids, wanted) in enumerate(batches()):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model, ids, wanted.float()) * (np.inf if i == 7 else 1.0)
            scaler.scale(loss).backward()
            if isinstance(model.table, unhot.torch.Embedding):
                assert is_row_sparse(model)
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        skipped.append(scales)
    assert skipped[0] == skipped[1]
    assert skipped[0][7] < skipped[0][6]
    same(pair, rtol=2e-2)  # bfloat16 gradients: a last-place difference of the weights moves a rounding of 2**-9


@pytest.fixture
def new_tensors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where new tensors are made: nothing said, or by a mode, which compilers look at."""
    with default_device(request.param) if request.param else nullcontext():
        yield


@pytest.mark.parametrize("new_tensors", ["", "cpu"], indirect=True)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.usefixtures("new_tensors")
def test_compiled_model(backend: str) -> None:
    """No wrong result in a compiled training loop, dense part and tables together."""
    pair = twins()
    for model, optimizer in pair:
        torch._dynamo.reset()
        compiled = torch.compile(model, backend=backend)
        for ids, wanted in batches():
            optimizer.zero_grad()
            loss_of(compiled, ids, wanted).backward()
            optimizer.step()
    assert is_row_sparse(pair[1][0])
    same(pair)


def test_graph_breaks_of_a_compiled_model() -> None:
    """None before a table is owned; then one at each lookup, and none more from step to step.

    The graphs are: up to the lookups, and the rest.
    """
    ids, wanted = batches()[0]
    counts = []
    for owned in (False, True):
        torch._dynamo.reset()
        model = Model(unhot.torch)
        optimizer = (unhot.torch if owned else torch.optim).AdamW(model.parameters())
        counter = CompileCounter()
        compiled = torch.compile(model, backend=counter)
        for _ in range(4):
            optimizer.zero_grad()
            loss_of(compiled, ids, wanted).backward()
            optimizer.step()
        counts.append(counter.frame_count)
    assert counts[1] == 2
    assert counts[0] == 1 or OLD


def test_graphs_of_a_compiled_bag_with_padding() -> None:
    """Wherever the padding is: one up to the lookup, and the rest."""
    rng = np.random.default_rng(0)

    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = unhot.torch.EmbeddingBag(ROWS, DIM, padding_idx=0), nn.Linear(DIM, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.bag(ids + 0))

    torch._dynamo.reset()
    model = Bags()
    optimizer = unhot.torch.AdamW(model.parameters())
    counter = CompileCounter()
    compiled = torch.compile(model, backend=counter)
    for most in (3, ROWS, 2, ROWS, 4):
        compiled(torch.from_numpy(rng.integers(most, size=(4, 3)))).sum().backward()
        optimizer.step()
        assert counter.frame_count == 2


def test_export_is_a_plain_embedding() -> None:
    """A trained model, exported for evaluation, holds settled weights and torch's own operations."""
    (_, _), (model, optimizer) = twins()
    for ids, wanted in batches():
        optimizer.zero_grad()
        loss_of(model, ids, wanted).backward()
        optimizer.step()
    model.eval()
    example = batches()[0][0]
    program = torch.export.export(model, (example,))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.embedding.default" in called
    assert not any("unhot" in name for name in called)
    for ids, _ in batches()[:3]:
        torch.testing.assert_close(program.module()(ids), model(ids))


@pytest.mark.filterwarnings("ignore")
def test_onnx_export() -> None:
    torch.set_default_dtype(torch.float32)
    model = Model(unhot.torch)
    optimizer = unhot.torch.AdamW(model.parameters(), lr=0.1)
    for ids, wanted in batches():
        optimizer.zero_grad()
        loss_of(model, ids, wanted.float()).backward()
        optimizer.step()
    table = nn.Sequential(model.table, nn.Linear(DIM, 2)).eval()
    ids = torch.arange(ROWS)
    program = torch.onnx.export(table, (ids,), dynamo=True, verbose=False)
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        program.save(str(path))
        read = onnx.load(str(path))
    assert read.graph.node[0].op_type == "Gather"
    found = ReferenceEvaluator(read).run(None, {read.graph.input[0].name: ids.numpy()})[0]
    np.testing.assert_allclose(found, table(ids).detach(), rtol=1e-5, atol=1e-6)


def test_data_loader_workers() -> None:
    """Worker processes are forked from one that has stepped tables, and each batch trains."""
    pair = twins()
    for model, optimizer in pair:
        loader = DataLoader(TensorDataset(*data()), batch_size=8, num_workers=2, timeout=PATIENCE.total_seconds())
        for _ in range(2):
            for ids, wanted in loader:
                optimizer.zero_grad()
                loss_of(model, ids, wanted).backward()
                optimizer.step()
    same(pair)


def test_lightning_trainer(tmp_path: Path) -> None:
    """Fit with a scheduler, clipping, accumulation and a checkpoint in mid-training, from which another run goes on."""
    warnings.simplefilter("ignore")
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self, model: nn.Module, optimizers: Any) -> None:
            super().__init__()
            self.model, self.chosen = model, optimizers

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            return loss_of(self.model, *batch)

        def configure_optimizers(self) -> Any:
            optimizer = self.chosen.AdamW(self.model.parameters(), lr=0.02)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=200)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def configure_gradient_clipping(self, optimizer: Any, gradient_clip_val: Any = None, **_: Any) -> None:
            unhot.torch.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def trainer(epochs: int) -> Any:
        return lightning.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, gradient_clip_val=0.5, accumulate_grad_batches=2, default_root_dir=tmp_path,
        )  # fmt: skip

    torch.manual_seed(0)
    theirs, ours = Model(), Model(unhot.torch)
    ours.load_state_dict(theirs.state_dict())
    loader = DataLoader(TensorDataset(*data()), batch_size=8)
    trainer(2).fit(Module(theirs, torch.optim), loader)
    first = trainer(1)
    first.fit(Module(ours, unhot.torch), loader)
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed = Model(unhot.torch)
    trainer(2).fit(Module(resumed, unhot.torch), loader, ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    same([(theirs, None), (resumed, None)])


def test_vmap_and_gradcheck_of_a_table_without_an_owner() -> None:
    layer = unhot.torch.Embedding(5, 2)
    ids = torch.tensor([[0, 1], [1, 1]])
    assert torch.autograd.gradcheck(lambda weight: nn.functional.embedding(ids, weight), (layer.weight,))
    mapped = torch.func.vmap(lambda one: nn.functional.embedding(one, layer.weight))(ids)
    torch.testing.assert_close(mapped, layer(ids))


def test_stock_optimizer_and_clipping() -> None:
    """Without one of our optimizers everything is torch's own."""
    torch.manual_seed(0)
    theirs, ours = Model(), Model(unhot.torch)
    ours.load_state_dict(theirs.state_dict())
    for model in (theirs, ours):
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for ids, wanted in batches():
            optimizer.zero_grad()
            loss_of(model, ids, wanted).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------- DistributedDataParallel


CASES = "optimizer first", "wrapped first", "as a whole", "unused", "sparse", "bucket views"


def distributed(rank: int, folder: str) -> None:
    """One of two processes; writes for each case the parameters, or the error."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=PATIENCE
    )
    kept: list[Any] = []
    for case in CASES:
        try:
            result: Any = trained_by_two(rank, case, kept)
        except RuntimeError as error:
            result = str(error)
            kept.append(error)
        torch.save(result, Path(folder) / f"{case} {rank}.pt")
    # The process ends here, and frees nothing. Freeing DDP's reducer holds the GIL while it waits for gloo's thread, and that
    # thread, where it happens to be freeing the work of a sparse all-reduce, waits for the GIL: torch can lock up for good.
    os._exit(0)


def trained_by_two(rank: int, case: str, kept: list[Any]) -> dict[str, Tensor]:
    """The parameters after training with half of each batch; `kept` is what must not be freed."""
    model = twins()[1][0]
    options = {"find_unused_parameters": case == "unused", "gradient_as_bucket_view": case == "bucket views"}
    if case == "sparse":
        model.table.sparse = True
    if case == "unused":
        model.other = unhot.torch.Embedding(5, 2)
    if case == "wrapped first":
        wrapped = nn.parallel.DistributedDataParallel(model, **options)
        optimizer = unhot.torch.AdamW(model.parameters(), lr=0.02)
    else:
        optimizer = unhot.torch.AdamW(model.parameters(), lr=0.02)
        wrapped = nn.parallel.DistributedDataParallel(model, **options)
    kept.append(wrapped)
    if case == "as a whole":
        plain = model.forward
        model.forward = lambda ids: plain(ids) + model.table.weight.sum() * 0.1
    for ids, wanted in batches():
        optimizer.zero_grad()
        part = slice(rank * 4, rank * 4 + 4)
        loss_of(wrapped, ids[part], wanted[part]).backward()
        optimizer.step()
        assert model.table.weight.grad.is_sparse == (case == "sparse")
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each of them wrote for each case."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    folder = tmp_path_factory.mktemp("distributed")
    torch.multiprocessing.spawn(distributed, (str(folder),), nprocs=2)
    return {case: [torch.load(folder / f"{case} {rank}.pt") for rank in range(2)] for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_distributed_as_one_process(case: str, of_two_processes: dict[str, list[Any]]) -> None:
    """Two processes with half a batch each hold the same bits, and what one process with the whole batch holds."""
    first, second = of_two_processes[case]
    assert isinstance(first, dict), first
    pair = twins()
    model, optimizer = pair[0]
    for ids, wanted in batches():
        optimizer.zero_grad()
        loss = loss_of(model, ids, wanted)
        if case == "as a whole":
            plain = model.forward
            loss = loss_of(lambda ids, plain=plain: plain(ids) + model.table.weight.sum() * 0.1, ids, wanted)
        loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(first[name], second[name])
        np.testing.assert_allclose(first[name], parameter.detach(), rtol=1e-8, atol=1e-8)


def test_deepcopied_model_trains_alone() -> None:
    """A copy of model and optimizer, as for a lookahead or a restart."""
    (_, _), (model, optimizer) = twins()
    ids, wanted = batches()[0]
    loss_of(model, ids, wanted).backward()
    optimizer.step()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    other = copy.deepcopy(model)
    again = unhot.torch.AdamW(other.parameters(), lr=0.02)
    loss_of(other, ids, wanted).backward()
    again.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
