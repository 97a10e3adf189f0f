"""The faults that `make mutants` puts in can still be put in."""

from __future__ import annotations

import ast
import builtins
import re
import shlex
import shutil
from pathlib import Path

import pytest
from mutants.run import ROOT, mutants

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")


@needs_git
def test_each_patch_applies() -> None:
    failed = [mutant.path.name for mutant in mutants() if not mutant.apply(ROOT, "--check")]
    assert not failed, "make the fault anew in today's text, by `git diff`, or remove it if there is nothing to break any more"


def unbound(source: str) -> set[str]:
    """The names that a module uses and nowhere binds."""
    bound, used = set(dir(builtins)) | {"__file__", "__path__"}, set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
            case ast.alias(name=name, asname=other):
                bound.add(other or name.split(".")[0])
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                bound.add(name)
    return used - bound


@needs_git
def test_no_patch_fails_for_a_name_that_is_not_there(tmp_path: Path) -> None:
    """Any test would catch that."""
    for mutant in mutants():
        found = re.search(r"^\+\+\+ b/(.+\.py)$", mutant.path.read_text(), re.MULTILINE)
        if found is None:
            continue
        copy = tmp_path / mutant.path.stem / found[1]
        copy.parent.mkdir(parents=True)
        shutil.copy(ROOT / found[1], copy)
        assert mutant.apply(tmp_path / mutant.path.stem)
        assert not unbound(copy.read_text()), mutant.path


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
