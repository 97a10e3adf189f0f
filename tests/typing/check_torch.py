"""What a type checker is to see of `unhot.torch`.  This is not run; mypy and Pyright report nothing here."""

from typing import assert_type

import torch

import unhot.torch

layer = unhot.torch.Embedding(10, 4, padding_idx=0)
assert_type(layer, unhot.torch.Embedding)
stock: torch.nn.Module = layer
bag = unhot.torch.EmbeddingBag(10, 4, mode="mean", bias=True, activation=torch.relu, out_of_range="zero")
assert_type(unhot.torch.EmbeddingBag.from_dense(torch.nn.Linear(10, 4)), unhot.torch.EmbeddingBag)
optimizer: torch.optim.Optimizer = unhot.torch.AdamW([*layer.parameters(), *bag.parameters()], lr=1e-3)
assert_type(unhot.torch.Adam(layer.parameters()), unhot.torch.Adam)
torch.optim.lr_scheduler.StepLR(optimizer, 10)
assert_type(layer.forward(torch.tensor([1])), torch.Tensor)
assert_type(layer.weight, torch.Tensor)
assert_type(unhot.torch.clip_grad_norm_(layer.parameters(), 1.0), torch.Tensor)
conversion = unhot.torch.convert(torch.nn.Sequential(stock), to="stock")
assert_type(conversion.model, torch.nn.Sequential)
assert_type(conversion.replaced, dict[str, str])

# Each checker reports each of these errors: where one does not, it complains of an `ignore` for nothing.
unhot.torch.Adam(layer.parameters(), learning_rate=1e-3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
unhot.torch.convert(stock, to="keras")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
unhot.torch.Embedding("ten", 4)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
unhot.torch.Lion()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
