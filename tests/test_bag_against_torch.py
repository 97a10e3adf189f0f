"""Pooled lookups against torch.nn.functional.embedding_bag."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from snapshots import DTYPES
from torch.nn.functional import embedding_bag

import unhot


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    mode=st.sampled_from(("sum", "mean", "max")),
    weighted=st.booleans(),
    seed=st.integers(0, 999),
)
def test_embedding_bag(dtype: str, lengths: list[int], mode: str, weighted: bool, seed: int) -> None:
    """Flat ids with offsets, of settled and of deferred rows, weighted sums, empty bags."""
    generator = np.random.default_rng(seed)
    table = unhot.Table(30, 5, optimizer=unhot.Adam(0.1), dtype=dtype, seed=seed)
    ids = generator.integers(0, 30, size=sum(lengths))
    offsets = np.cumsum([0, *lengths])[:-1]
    weights = generator.normal(size=len(ids)).astype(dtype) if weighted and mode == "sum" else None
    factors = None if weights is None else torch.from_numpy(weights)
    for _ in range(2):
        rows = torch.from_numpy(table.lookup(np.arange(30)))
        expected = embedding_bag(
            torch.from_numpy(ids), rows, torch.from_numpy(offsets), mode=mode, per_sample_weights=factors
        ).numpy()
        precision = 2e-6 if dtype == "float32" else 1e-14
        found = table.bag(ids, offsets=offsets, weights=weights, mode=mode)
        np.testing.assert_allclose(found, expected, rtol=precision, atol=precision * 0.1)
        table.step(ids[:3], generator.normal(size=(len(ids[:3]), 5)).astype(dtype))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_embedding_bag_in_two_dimensions(mode: str) -> None:
    """(bags, length) ids."""
    table = unhot.Table(30, 5, seed=1)
    ids = np.random.default_rng(0).integers(0, 30, size=(7, 4))
    expected = embedding_bag(torch.from_numpy(ids), torch.from_numpy(table.array), mode=mode).numpy()
    np.testing.assert_allclose(table.bag(ids, mode=mode), expected, rtol=2e-6, atol=1e-8)
