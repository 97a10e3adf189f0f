"""Run PyTorch's own tests of the embedding layers with ours in their place.

They are no part of PyTorch's package, so they need a checkout of its source, and `pip install expecttest`:

    python tests/pytorch/upstream.py PYTORCH/test/nn/test_embedding.py
    python tests/pytorch/upstream.py PYTORCH/test/test_modules.py -k Embedding_
    python tests/pytorch/upstream.py PYTORCH/test/test_nn.py -k Embedding
"""

from __future__ import annotations

import sys

import pytest
from torch import nn

import unhot.torch


def replace() -> None:
    """Make torch's names those of our layers, also where a test module took a layer's class from."""
    for name in ("Embedding", "EmbeddingBag"):
        theirs, ours = getattr(nn, name), getattr(unhot.torch, name)
        for module in (nn, nn.modules, nn.modules.sparse):
            setattr(module, name, ours)
        from torch.testing._internal import common_modules

        for info in common_modules.module_db:
            if info.module_cls is theirs:
                info.module_cls = ours


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    replace()
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-c", "/dev/null", *sys.argv[1:]]))
