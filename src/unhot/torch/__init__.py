"""unhot for PyTorch: `nn.Embedding` and the optimizers of `torch.optim`, exact at the cost of the rows touched.

Change two names, `torch.nn.Embedding` to `unhot.torch.Embedding` and `torch.optim.Adam` to `unhot.torch.Adam`, and keep the
training loop.
"""

from __future__ import annotations

from unhot import extras
from unhot.reports import Conversion, TableReport, TrainingReport

try:
    from torch.serialization import add_safe_globals
except ModuleNotFoundError as error:
    raise extras.missing("unhot.torch", "torch", error) from error

from unhot.torch import openmp, optim
from unhot.torch.clip import clip_grad_norm_
from unhot.torch.collection import EmbeddingBagCollection, EmbeddingBagConfig, EmbeddingCollection, EmbeddingConfig
from unhot.torch.conversion import convert
from unhot.torch.gradient import RowGradient
from unhot.torch.gradient import rebuilt as rebuilt_gradient
from unhot.torch.keyed import KeyedEmbedding
from unhot.torch.layer import Embedding, EmbeddingBag
from unhot.torch.optim import *  # noqa: F403  (every optimizer)
from unhot.torch.owners import release, report
from unhot.torch.parameter import TableParameter, rebuilt

__all__ = [
    "Conversion", "Embedding", "EmbeddingBag", "EmbeddingBagCollection", "EmbeddingBagConfig", "EmbeddingCollection",
    "EmbeddingConfig", "KeyedEmbedding", "RowGradient", "TableReport", "TrainingReport", "clip_grad_norm_", "convert",
    "release", "report",
]  # fmt: skip
__all__ += optim.__all__

openmp.join()

# What a saved layer or parameter is made of: plain data, which `torch.load` may read under its default, weights_only=True.
add_safe_globals([Embedding, EmbeddingBag, TableParameter, rebuilt, RowGradient, rebuilt_gradient])
