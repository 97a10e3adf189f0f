"""Whether the fast tests notice small faults: `make mutants`, or `python tests/mutants/run.py --only NAME`.

Each patch here is one plausible fault, with a header that says what it is, and lines such as

    Caught-by: KERAS_BACKEND=jax tests/keras3/test_fit.py -k adam

of pytest's arguments: the tests of the fast set that are run first.  In a copy of the tree, one patch after the other is
applied, the native kernels are built anew where it concerns them, and the tests are run until one fails; if none of those named
does, the rest of the fast set follows.  A fault is caught if a test fails or Python crashes; time that runs out and tests that
cannot be collected do not count.  At the end, every test that has caught a fault must pass without one.

It needs git, CMake, Ninja and nanobind; the latter three are looked for beside the Python that runs this.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

FAST = "-n 2 --dist worksteal tests"
REST = (
    f"--ignore tests/keras3 --ignore tests/mutants {FAST}",
    *(f"KERAS_BACKEND={backend} {FAST}/keras3 tests/test_ownership.py" for backend in ("torch", "jax", "tensorflow")),
)
"""The fast set."""

CRASHES = tuple(-signal.Signals[f"SIG{name}"] for name in ("ILL", "ABRT", "BUS", "FPE", "SEGV"))

FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?::.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """One patch, and what its header says."""

    path: Path

    @property
    def tests(self) -> list[str]:
        """What to run first: pytest's arguments, after variables of the environment."""
        return re.findall(r"^Caught-by: (.+)$", self.path.read_text(), re.MULTILINE)

    @property
    def native(self) -> bool:
        """Whether it changes what the native kernels are built of."""
        return re.search(r"^\+\+\+ b/(native/|CMakeLists)", self.path.read_text(), re.MULTILINE) is not None

    def apply(self, tree: Path, *options: str) -> bool:
        """`git apply` in `tree`; whether that went well."""
        outside = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}  # the tree need not be a repository
        done = subprocess.run(["git", "apply", *options, str(self.path)], cwd=tree, env=outside, capture_output=True, text=True)
        print(done.stderr, end="", file=sys.stderr)
        return done.returncode == 0


class Catch(NamedTuple):
    """What has noticed a fault: a test of those that were run, or a crash in one."""

    command: str
    test: str | None

    def __str__(self) -> str:
        return self.test or f"a crash of {self.command}"


class Copy:
    """A copy of the tree with native kernels of its own."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.build = tree / "build" / "mutants"
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
            if (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        tools = Path(sys.executable).parent
        self.cmake = str(tools / "cmake")
        options = [
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DCMAKE_MAKE_PROGRAM={tools / 'ninja'}",
            "-DCMAKE_BUILD_TYPE=Release",
        ]
        self._run([self.cmake, "-S", ".", "-B", str(self.build), "-G", "Ninja", *options])
        self.make()
        self.kept = {path.name: path.read_bytes() for path in (tree / "src" / "unhot").glob("_native*.so")}

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, cwd=self.tree, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")

    def make(self) -> None:
        """Build the native kernels, of which only what has changed is compiled."""
        self._run([self.cmake, "--build", str(self.build), "-j", "2"])
        self._run([self.cmake, "--install", str(self.build), "--prefix", str(self.tree / "src")])

    def restore(self) -> None:
        """Put back the native kernels without a fault."""
        for name, content in self.kept.items():
            path = self.tree / "src" / "unhot" / name
            path.unlink()  # a process may still have it open
            path.write_bytes(content)

    def pytest(self, command: str, *more: str) -> tuple[int, str]:
        """Run the tests that `command` names; what pytest returns and prints."""
        words = shlex.split(command)
        given = dict(word.split("=", 1) for word in words if re.fullmatch(r"[A-Z_]+=.*", word))
        arguments = [word for word in words if not re.fullmatch(r"[A-Z_]+=.*", word)]
        environment = {**os.environ, "PYTHONPATH": str(self.tree / "src"), "PYTHONDONTWRITEBYTECODE": "1", **given}
        python = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=line"]
        done = subprocess.run([*python, *arguments, *more], cwd=self.tree, env=environment, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def catch(self, commands: Iterable[str]) -> Catch | None:
        """The first test of these that fails, if one does."""
        for command in commands:
            code, output = self.pytest(command)
            failed = FAILED.search(output)
            if code in CRASHES or (code in (1, 2) and failed):  # 2: where there are several processes
                return Catch(command, failed[1] if failed else None)
            if code:
                print(f"    {command}: no test failed, but pytest returned {code}:\n{output[-1500:]}", flush=True)
        return None

    def passes(self, catch: Catch) -> bool:
        """Whether what has caught a fault passes where there is none."""
        variables = " ".join(word for word in catch.command.split() if re.match(r"[A-Z_]+=", word))
        code, output = self.pytest(variables, catch.test) if catch.test else self.pytest(catch.command)
        if code:
            print(f"    {catch} does not pass without a fault:\n{output[-1500:]}", flush=True)
        return code == 0


def mutants() -> Iterator[Mutant]:
    """All there are, by name."""
    return map(Mutant, sorted(HERE.glob("*.patch")))


def examine(copy: Copy, mutant: Mutant, quick: bool) -> Catch | str:
    """What catches the fault, or why nothing does."""
    if not mutant.apply(copy.tree):
        return "DOES NOT APPLY"
    try:
        if mutant.native:
            copy.make()
        return copy.catch(mutant.tests if quick else [*mutant.tests, *REST]) or "MISSED"
    except RuntimeError as error:
        print(error)
        return "CANNOT BE BUILT"
    finally:
        mutant.apply(copy.tree, "--reverse")
        if mutant.native:
            copy.restore()


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether the fast tests notice small faults.")
    parser.add_argument("--only", action="append", metavar="NAME", help="this patch alone (may be given several times)")
    parser.add_argument("--quick", action="store_true", help="run the tests that a patch names, and not the others")
    given = parser.parse_args()
    chosen = [mutant for mutant in mutants() if given.only is None or mutant.path.stem in given.only]
    if given.only and len(chosen) < len(set(given.only)):
        parser.error(f"there is no such patch. Received: {', '.join(given.only)}.")
    caught: dict[Catch, list[str]] = {}
    bad: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder) / "unhot")
        for mutant in chosen:
            begun = time.monotonic()
            found = examine(copy, mutant, given.quick)
            print(f"{mutant.path.stem}: {found} ({time.monotonic() - begun:.0f} s)", flush=True)
            if isinstance(found, Catch):
                caught.setdefault(found, []).append(mutant.path.stem)
            else:
                bad.append(f"{mutant.path.stem}: {found}")
        bad += [f"{', '.join(names)}: {catch} fails anyway" for catch, names in caught.items() if not copy.passes(catch)]
    print(f"{len(chosen) - len(bad)} of {len(chosen)} faults are caught.", *bad, sep="\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
