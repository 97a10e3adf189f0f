"""The package as others see it: its types, its command, what it says where an extra is missing, and its versions."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

import unhot

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# ------------------------------------------------------------------ types


def test_checkers_are_told_that_the_package_has_types() -> None:
    assert (files("unhot") / "py.typed").is_file()


def test_dir_shows_the_public_names() -> None:
    code = "import unhot; print(*dir(unhot)); import unhot.jax; print('jax' in dir(unhot))"
    shown, with_front_end = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    ).stdout.splitlines()
    assert {name for name in shown.split() if not name.startswith("__")} == set(unhot.__all__)
    assert "__version__" in shown
    assert with_front_end == "True"


STUB_KINDS = {
    "_Ids": "int64 array", "_Law": "tuple", "_Coefficients": "object", "tuple[int, int]": "list[int]",
    "tuple[float, float, float]": "Sequence[float]", "list[str]": "list",
    "_Keys": "tuple", "_Rows": "Sequence[int]", "tuple[int, int, int, int]": "list[int]",
    "tuple[_Keys, NDArray[np.bool_] | None]": "tuple", "tuple[_Keys, _Ids]": "tuple",
}  # fmt: skip


def stub_kind(annotation: ast.expr, real: str) -> str:
    """The annotation in the words of the module's signatures, where `_Float` is the dtype `real`."""
    text = ast.unparse(annotation)
    if text.endswith("| None"):
        return "object | None"
    array = re.fullmatch(r"NDArray\[(?:np\.)?(\w+)\]", text)
    if array:
        return f"{real if array[1] == '_Float' else array[1]} array"
    return STUB_KINDS.get(text, "list" if text.startswith("list[") else text)


def module_signature(text: str) -> tuple[list[str], str]:
    """The kinds of a function's parameters, and of what it returns."""
    found = re.fullmatch(r"def \w+\((.*)\) -> (.*)", text)
    assert found, text
    text = (
        re.sub(r"ndarray\[dtype=(\w+).*?\]", r"\1 array", re.sub("^self(, |$)", "", found[1]))
        .replace("collections.abc.", "")
        .removesuffix(", /")
    )
    return [part.partition(": ")[2] for part in re.split(r", (?=\w+: )", text) if part], found[2]


def test_native_stub_says_what_the_module_has() -> None:
    """Names, parameters with their dtypes, and results; a function with `_Float` has an overload for each of the two."""
    module: Any = pytest.importorskip("unhot._native")
    tree = ast.parse((files("unhot") / "_native.pyi").read_text())
    stub = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    assert {*stub, *classes} == {name for name in dir(module) if not name.startswith("__")}
    there = {name: getattr(module, name) for name in stub}
    for kind, described in classes.items():
        methods = {f"{kind}.{node.name}": node for node in described.body if isinstance(node, ast.FunctionDef)}
        stub |= methods
        there |= {name: getattr(getattr(module, kind), name.partition(".")[2]) for name in methods}
        named = {name.partition(".")[2] for name in methods}
        assert named == {"__init__"} | {name for name in dir(getattr(module, kind)) if not name.startswith("__")}
    for name, node in stub.items():
        node.args.posonlyargs = [argument for argument in node.args.posonlyargs if argument.arg != "self"]
        annotations = [argument.annotation for argument in node.args.posonlyargs]
        assert not node.args.args, f"{name}: parameters have no names"
        expected = []
        for real in ("float32", "float64") if "[_Float]" in ast.unparse(node.args) else ("",):
            kinds = [stub_kind(annotation, real) for annotation in annotations if annotation]
            expected.append((kinds, stub_kind(node.returns, real) if node.returns else "None"))
        assert [module_signature(overload[0]) for overload in there[name].__nb_signature__] == expected, name


def test_types_are_seen_where_the_package_is_installed(tmp_path: Path) -> None:
    """mypy from elsewhere reads the package's types: the errors marked in check_core.py, and no other."""
    pytest.importorskip("mypy")
    script = (ROOT / "tests" / "typing" / "check_core.py").read_text()
    (tmp_path / "script.py").write_text(re.sub(r"# type: ignore.*", "", script))
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "script.py"]
    path = str(Path(unhot.__file__).parents[1])
    found = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    marked = [n for n, line in enumerate(script.splitlines(), start=1) if "# type: ignore" in line]
    reported = [int(line.split(":")[1]) for line in found.stdout.splitlines() if ": error: " in line]
    assert sorted(set(reported)) == marked, found.stdout + found.stderr


# ------------------------------------------------------------------ imports

SOURCE = Path(unhot.__file__).parent
MODULES = {
    ".".join(("unhot", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """The modules of the package that a module imports: also within functions, and for checkers of types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in names}
    return found & MODULES.keys()


def test_imports_go_one_way() -> None:
    """No module imports itself over others. (That a module's package is imported with it does not count.)"""
    graph = {module: imported(path) for module, path in MODULES.items()}
    assert {"unhot.torch.backend", "unhot.keras.backend"} <= graph.keys()
    assert "unhot.comparison" in graph["unhot"], "an import within a function"
    graphlib.TopologicalSorter(graph).prepare()  # a CycleError names the modules


# ------------------------------------------------------------------ without extras

WITHOUT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        absent = {absent}
        hidden = top in absent if absent else top not in (*sys.stdlib_module_names, "numpy", "unhot")
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def run_without(code: str, *absent: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The code, run where the packages `absent` are not installed, or by default none but NumPy and unhot."""
    script = WITHOUT.format(absent=absent) + code
    return subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


COMMAND = "import runpy; sys.argv = ['unhot', *{arguments!r}]; runpy.run_module('unhot', run_name='__main__')"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 0, "compare"),
        (["--help"], 0, "compare"),
        (["--version"], 0, f"unhot {unhot.__version__} (kernels: {unhot.kernels.name}; NumPy "),
        (["compare"], 1, 'needs typer, which is not installed: pip install "unhot[compare]"'),
        (["compare", "--help"], 1, 'needs typer, which is not installed: pip install "unhot[compare]"'),
        (["comprae"], 2, "'compare'"),
    ],
)
def test_command_without_extras(arguments: list[str], code: int, text: str) -> None:
    done = run_without(COMMAND.format(arguments=arguments))
    assert done.returncode == code, done.stderr
    assert text in (done.stderr if code else done.stdout)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import unhot.torch", 'unhot.torch needs torch, which is not installed: pip install "unhot[torch]"'),
        ("import unhot.keras", 'unhot.keras needs keras, which is not installed: pip install "unhot[keras]"'),
        ("import unhot.jax", 'unhot.jax needs jax, which is not installed: pip install "unhot[jax]"'),
        ("import unhot; unhot.compare()", 'pip install "unhot[compare]"'),
        (f"import unhot; unhot.compare({__file__!r}, 'ids')", 'pip install "unhot[compare]"'),
    ],
)
def test_errors_of_what_is_missing_name_the_extra(code: str, message: str) -> None:
    done = run_without(code)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]


def test_error_of_a_missing_backend_names_it() -> None:
    pytest.importorskip("keras")
    done = run_without("import unhot.keras", "tensorflow", "torch", "jax", KERAS_BACKEND="tensorflow")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "unhot.keras needs a backend for Keras. tensorflow, which Keras was to run on, is not installed" in last
    assert "KERAS_BACKEND" in last


# ------------------------------------------------------------------ the project's pages


def test_readme_links_work_on_a_package_index() -> None:
    """With the substitutions that a build makes, links and pictures name files of the release in the project's repository."""
    readme = (ROOT / "README.md").read_text() + '\n![chart](docs/chart.svg) <img src="docs/chart.svg"> <a href="docs/api.md">'
    for one in PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        readme = re.sub(one["pattern"], one["replacement"], readme)
    home = re.escape(PYPROJECT["project"]["urls"]["Homepage"])
    raw = home.replace("github\\.com", "raw\\.githubusercontent\\.com")
    targets = re.findall(r"""(?:\]\(|\b(?:src|href)=")([^)"]*)""", readme)
    assert len(targets) >= 10
    for target in targets:
        kind = (
            rf"{raw}/v\$HFPR_VERSION/" if target.endswith(".svg") else rf"(?:{home}/(?:blob|raw)/v\$HFPR_VERSION/|#|https://)"
        )
        assert re.match(kind, target), target


# ------------------------------------------------------------------ versions


def test_the_version_stands_in_one_place() -> None:
    """In the package; the changelog and the citation, which cannot read it, follow."""
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert re.search(rf"^## \[{re.escape(unhot.__version__)}\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert f"\nversion: {unhot.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_hooks_run_the_versions_that_are_checked() -> None:
    hooks = re.findall(r"[\w-]+==[\d.]+", (ROOT / ".pre-commit-config.yaml").read_text())
    assert hooks
    assert set(hooks) <= set(PYPROJECT["dependency-groups"]["check"])
