"""The simulation of sharded steps counts what is there to count, and docs/scale.md shows what was measured and simulated."""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from unhot.clock.measure import MeasureHistory
from unhot.layouts import LAYOUTS, layout_of

ROOT = Path(__file__).parents[1]
MODES = [(layout, dedup) for layout in LAYOUTS for dedup in (False, True)]


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script; its parts are `scale.model`, `scale.tables`."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    made = importlib.import_module("scale")
    made.model = importlib.import_module("at_scale.model")
    yield made
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
            del sys.modules[name]


@pytest.mark.parametrize(("layout", "dedup"), MODES)
@pytest.mark.parametrize("ranks", [2, 3])
def test_loads_are_those_of_counting_one_by_one(scale, layout, dedup, ranks):  # type: ignore[no-untyped-def]
    """What is sent and asked for, id by id."""
    work = scale.model.Work(rows=1000, ids=300, order="frequency", seed=3)
    placed = layout_of(layout, work.rows, ranks)
    owner = {row: int(placed.split(np.array([row]))[0][0]) for row in range(work.rows)}
    sent: Counter[tuple[int, int]] = Counter()
    rows: list[set[int]] = [set() for _ in range(ranks)]
    routed = [0] * ranks
    for source, ids in enumerate(work.drawn(ranks).tolist()):
        for row in set(ids) if dedup else ids:
            sent[source, owner[row]] += 1
            rows[owner[row]].add(row)
            routed[source] += 1
    others = range(ranks)
    out = [sum(sent[k, other] for other in others if other != k) for k in others]
    into = [sum(sent[other, k] for other in others if other != k) for k in others]
    found = scale.model.load(work, layout, ranks, dedup)
    assert found.once == max(routed)
    assert found.lines == max(out + into)
    assert found.vector_bytes(64) == 4 * 64 * max(out + into)
    assert found.asked == max(sum(sent[other, k] for other in others) for k in others)
    assert found.distinct == max(map(len, rows))
    assert (found.all_asked, found.all_distinct) == (sum(routed), sum(map(len, rows)))
    assert found.width == scale.model.HEADER + scale.model.room(max(sent.values()))
    assert found.id_bytes() == 8 * (ranks - 1) * found.width


@pytest.mark.parametrize(("layout", "dedup"), MODES)
def test_messages_are_those_of_the_layers(scale, layout, dedup):  # type: ignore[no-untyped-def]
    """The width of a message, and the ids in it, are those of the router that the layers use."""
    torch = pytest.importorskip("torch")
    routing = importlib.import_module("unhot.torch.distributed.routing")
    messages = importlib.import_module("unhot.torch.distributed.messages")
    measure = importlib.import_module("at_scale.measure")
    work, ranks = scale.model.Work(rows=10_000, ids=2000), 4
    placed = layout_of(layout, work.rows, ranks)
    most, once = 0, 0
    for ids in work.drawn(ranks):
        router = measure.mirrored(placed)
        asked = routing.Asked(torch.from_numpy(np.unique(ids) if dedup else ids))
        route = router.start([asked])
        most, once = max(most, int(route.sent.max())), max(once, len(asked.ids))
        assert router.mail.header == scale.model.HEADER
    found = scale.model.load(work, layout, ranks, dedup)
    assert found.width == scale.model.HEADER + messages.rounded(most)
    assert found.once == once
    assert all(scale.model.room(count) == messages.rounded(count) for count in range(1, 5000, 7))


def test_zipf_law_is_that_of_its_exponent(scale):  # type: ignore[no-untyped-def]
    """The most frequent id has its share; other orders only give the ids other numbers."""
    work = scale.model.Work(rows=10**6, ids=20_000, exponent=1.2)
    drawn = work.drawn(2).reshape(-1)
    share = 1 / np.sum(np.arange(1, work.rows + 1) ** -1.2)
    assert np.mean(drawn == 0) == pytest.approx(share, rel=0.1)
    assert drawn.min() == 0
    assert drawn.max() < work.rows
    scattered = replace(work, order="scattered").drawn(2).reshape(-1)
    assert sorted(Counter(scattered.tolist()).values()) == sorted(Counter(drawn.tolist()).values())
    assert not replace(work, order="multiples").drawn(2).max() % 64


def test_exchange_takes_what_the_model_says(scale):  # type: ignore[no-untyped-def]
    """Latency and bandwidth by hand: 1 MB at 8 Gb/s is 1 ms."""
    network = scale.model.Network("some", 10.0, 8.0)
    assert network.exchange_us(16, 1e6, 50.0) == pytest.approx(50 + 15 * 10 + 1000)
    assert replace(network, latency="log2").exchange_us(16, 1e6, 50.0) == pytest.approx(50 + 4 * 10 + 2 * 1000)
    assert network.exchange_us(1, 1e6, 50.0) == 0


def test_memory_is_that_of_the_arrays(scale):  # type: ignore[no-untyped-def]
    """Bytes of a rank by hand, and of the history by the arrays of one that is there."""
    found = scale.model.memory(10**9, 64, 64)
    assert found["weights"] == 10**9 // 64 * 64 * 4
    assert found["slots"] == 2 * found["weights"]
    assert found["last touches"] == 10**9 // 64 * 4
    optimizer = importlib.import_module("unhot").Adam()
    history = MeasureHistory(10**6, optimizer.shape(optimizer.beta_1), optimizer.epsilon, "float32")
    arrays = history.scale, history.polynomial, history.used
    assert sum(array.nbytes for array in arrays) == scale.model.ring_bytes(10**6)
    assert scale.model.ring_bytes(10**6) <= 3 * 10**6
    assert scale.model.ring_bytes(10**6, steps=10) == 720


def test_page_shows_what_was_measured_and_simulated(scale):  # type: ignore[no-untyped-def]
    """The tables are those of the JSON, each says which it is, and small simulations give what the JSON has."""
    run, page = json.loads(scale.RESULTS.read_text()), scale.PAGE.read_text()
    assert scale.tables.filled(page, run) == page
    heads = [line for line, rule in zip(page.splitlines(), page.splitlines()[1:], strict=False) if rule.startswith("| ---")]
    assert all(
        any(word in head for word in ("measured", "simulated", "computed")) for head in heads if "rows are spread" not in head
    )
    cases = [case for case in run["simulated"] if case["work"]["order"] == "frequency" and case["load"]["ranks"] == 8]
    assert scale.simulated(scale.model.Work(), 8) == cases
