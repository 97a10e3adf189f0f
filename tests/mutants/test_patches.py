"""The faults that `make mutants` puts in can still be put in."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest
from mutants.run import ROOT, mutants


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_each_patch_applies() -> None:
    failed = [mutant.path.name for mutant in mutants() if not mutant.apply(ROOT, "--check")]
    assert not failed, "make the fault anew in today's text, by `git diff`, or remove it if there is nothing to break any more"


def test_each_says_what_it_is_and_what_should_catch_it() -> None:
    every = list(mutants())
    assert len(every) >= 30
    for mutant in every:
        header, _, difference = mutant.path.read_text().partition("\n--- ")
        assert not header.startswith(("Caught-by", "---")), mutant.path
        assert len(re.findall(r"^\+\+\+ ", difference, re.MULTILINE)) == 1, mutant.path
        assert mutant.tests, mutant.path
        for command in mutant.tests:
            named = [word for word in shlex.split(command) if word.startswith("tests/")]
            assert named, mutant.path
            assert all((ROOT / name.split("::")[0]).exists() for name in named), mutant.path
