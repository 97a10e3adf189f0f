"""unhot for PyTorch: `nn.Embedding` and the optimizers of `torch.optim`, exact at the cost of the rows touched.

Change two names, `torch.nn.Embedding` to `unhot.torch.Embedding` and `torch.optim.Adam` to `unhot.torch.Adam`, and keep the
training loop.
"""

from __future__ import annotations

from unhot.torch.layer import Embedding
from unhot.torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, NAdam, RMSprop

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Embedding", "NAdam", "RMSprop"]
