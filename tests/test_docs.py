"""The documentation is true: its Python examples run, its links lead somewhere, and docs/api.md is up to date."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path) -> None:
    """The page's Python blocks run one after the other, in one namespace."""
    namespace: dict[str, object] = {}
    for number, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S), start=1):
        exec(compile(block, f"{page.name}, Python block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Links to files of the repository name files that exist."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_api_reference_is_up_to_date() -> None:
    """docs/api.md is what the docstrings say."""
    subprocess.run([sys.executable, ROOT / "docs" / "make_api.py", "--check"], check=True)
