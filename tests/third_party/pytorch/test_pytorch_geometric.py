"""PyTorch Geometric's MetaPath2Vec, whose table all node types share."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn
from torch_geometric.nn import MetaPath2Vec

from .twins import assert_same, prepared

AUTHORS, PAPERS, DIM = 30, 20, 4
PATH = [("author", "writes", "paper"), ("paper", "written by", "author")]


def model() -> MetaPath2Vec:
    generator = torch.Generator().manual_seed(1)
    authors, papers = (torch.randint(nodes, (60,), generator=generator) for nodes in (AUTHORS, PAPERS))
    edges = {PATH[0]: torch.stack([authors, papers]), PATH[1]: torch.stack([papers, authors])}
    nodes = {"author": AUTHORS, "paper": PAPERS}
    return MetaPath2Vec(edges, DIM, PATH, walk_length=4, context_size=3, walks_per_node=2, num_nodes_dict=nodes)


@pytest.mark.parametrize("between", [False, True], ids=["steps alone", "read between epochs"])
def test_metapath2vec(between: bool) -> None:
    """Walks are drawn by the loader; between epochs the vectors of all authors are read, as for its evaluation."""
    seen: list[list[torch.Tensor]] = []

    def train(optimizers: ModuleType) -> nn.Module:
        module = prepared(model(), optimizers)
        optimizer = optimizers.Adam(module.parameters(), lr=0.02)
        seen.append([])
        for _ in range(3):
            for positive, negative in module.loader(batch_size=6, shuffle=True):
                optimizer.zero_grad()
                module.loss(positive, negative).backward()
                optimizer.step()
            if between:
                with torch.no_grad():
                    seen[-1].append(module("author", batch=torch.arange(AUTHORS)).clone())
        return module

    assert_same(train)
    for theirs, ours in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)
