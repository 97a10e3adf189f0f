"""The documentation is true: its Python examples run, its links lead somewhere, and what is generated is up to date."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
OTHER_PAGES = sorted([*(ROOT / "benchmarks").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path) -> None:
    """The page's Python blocks run one after the other, in one namespace."""
    namespace: dict[str, object] = {}
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S), start=1):
        exec(compile(block, f"{page.name}, Python block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Links to files of the repository name files that exist."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_api_reference_is_up_to_date() -> None:
    """docs/api.md is what the docstrings say."""
    subprocess.run([sys.executable, ROOT / "docs" / "make_api.py", "--check"], check=True)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The run whose figures the documentation shows, and the script that writes them."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield json.loads((ROOT / "benchmarks" / "results" / "bench.json").read_text()), importlib.import_module("page")
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
            del sys.modules[name]


def test_figures_are_those_of_the_run(measured: Any) -> None:
    """The tables of the README, of docs/performance.md and of the results are what the run says; so is its sentence."""
    run, page = measured
    readme = (ROOT / "README.md").read_text()
    assert page.pays(run) in readme
    assert page.times(run) in (ROOT / "docs" / "performance.md").read_text()
    assert page.results(run) == (ROOT / "benchmarks" / "results" / "README.md").read_text().rstrip("\n")
    dense, sparse, ours = page.headline(run)
    for words in (f"takes {dense} ms per step", f"`torch.optim.SparseAdam` takes {sparse} ms", f"unhot takes {ours} ms"):
        assert words in " ".join(readme.split())


def test_figures_of_a_gpu_are_those_of_the_run(measured: Any) -> None:
    """Once there is one; until then, the page says that there is none."""
    page, path = (ROOT / "docs" / "performance.md").read_text(), ROOT / "benchmarks" / "results" / "gpu.json"
    section = page.partition("\n## On a GPU\n")[2].partition("\n## ")[0]
    if path.exists():
        run = json.loads(path.read_text())["times"]
    else:
        assert "has not been measured" in section
        sizes = [{"rows": rows, "rivals": {}} for rows in (100_000, 1_000_000, 10_000_000, 100_000_000)]
        run = {"sizes": sizes}
    assert importlib.import_module("on_gpu.tables").milliseconds(run) in section


def test_figures_of_sharded_tables_are_those_of_the_run() -> None:
    results = ROOT / "benchmarks" / "results"
    few, many = (json.loads((results / f"{name}.json").read_text()) for name in ("sharded", "sharded_32768"))
    page = (ROOT / "docs" / "distributed.md").read_text()
    names = [
        "a rank beside the exchange, of one process",
        "a share without anything to send, of one process",
        "the same with swept caches, of one process",
        "the exchange, of gloo's own",
        "memory of a rank, of its share",
    ]
    shown = re.findall(r"^\| .* \| (\d\.\d\d) \| (\d\.\d\d) \|$", page, re.M)
    assert shown == [(f"{few[name]:.2f}", f"{many[name]:.2f}") for name in names]
    beside_torchrec = json.loads((results / "beside_torchrec.json").read_text())["CPU time over TorchRec's"]
    assert f"exchange included, is {beside_torchrec:.2f} of" in page
