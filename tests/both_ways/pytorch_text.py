"""Tell which library a docstring is from by its words and pairs of words, hashed into one table: an `EmbeddingBag`."""

from __future__ import annotations

import argparse
import inspect
import re
import zlib
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import torch
from both_ways import compare

LIBRARIES = (np, torch, torch.nn.functional, np.linalg, np.random)
DIM = 16


class Classifier(torch.nn.Module):
    """The mean of the words' vectors, and a linear layer."""

    def __init__(self, names: Any, rows: int) -> None:
        super().__init__()
        self.words = names.EmbeddingBag(rows, DIM, mode="mean")
        self.dense = torch.nn.Linear(DIM, 2)

    def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Scores of NumPy and PyTorch."""
        return self.dense(self.words(ids, offsets))


def texts(library: ModuleType) -> list[str]:
    """The paragraphs of the docstrings of its public names."""
    found = [inspect.getdoc(getattr(library, name, None)) or "" for name in dir(library) if not name.startswith("_")]
    return [part for text in found for part in text.split("\n\n") if len(part.split()) > 8]


def hashed(text: str, rows: int) -> list[int]:
    """Words and pairs of words as row numbers."""
    words = re.findall(r"[a-z]+", text.lower())
    return [zlib.crc32(gram.encode()) % rows for gram in (*words, *map(" ".join, pairwise(words)))]


def main(steps: int, rows: int) -> Any:
    """Train for so many steps on batches of 64 paragraphs."""
    labelled = [(hashed(text, rows), int("torch" in library.__name__)) for library in LIBRARIES for text in texts(library)]
    print(f"{len(labelled):,} paragraphs, {rows:,} rows")
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(steps):
        chosen = [labelled[i] for i in rng.integers(len(labelled), size=64)]
        ids = torch.tensor([i for text, _ in chosen for i in text])
        offsets = torch.tensor(np.cumsum([0, *(len(text) for text, _ in chosen[:-1])]))
        batches.append((ids, offsets, torch.tensor([label for _, label in chosen])))
    return compare(lambda names: Classifier(names, rows), batches, torch.nn.functional.cross_entropy)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=1 << 18)
    main(**vars(parser.parse_args()))
