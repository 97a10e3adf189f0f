"""`unhot info` and `unhot convert`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pytest
from snapshots import assert_bits, trained
from test_formats import ENDINGS, PLAIN, vectors
from typer.testing import CliRunner, Result

import unhot
from unhot.cli.files import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "120"})


def facts(text: str) -> dict[str, str]:
    """The lines of facts."""
    return {
        name: fact
        for line in text.splitlines()
        if (found := re.fullmatch(r"(\S.*?)  +(\S.*)", line))
        for name, fact in [found.groups()]
    }


def test_info_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    table = trained("adam", steps=12)
    table.out_of_range = 3
    table._save(path, {"keys": np.arange(9)})
    done = run("info", path)
    assert done.exit_code == 0, done.output
    found = facts(done.stdout)
    assert found["table"] == "9 x 3, F32"
    assert found["optimizer"] == repr(table.optimizer)
    assert (found["steps"], found["ids out of range"], found["checksums"]) == ("12", "3", "of every array")
    assert re.search(r"slot\.momentum +F32 +9 x 3 +108", done.stdout)
    assert re.search(r"vocabulary\.keys +I64 +9 +72", done.stdout)
    with unhot.load(path, mmap=True, mode="r+") as mapped:
        mapped.step([1], np.ones((1, 3)))
        path.with_name("y.safetensors").write_bytes(path.read_bytes())
    done = run("info", path.with_name("y.safetensors"))
    assert "whole             no: the table was trained in this file" in done.stdout
    assert facts(done.stdout)["checksums"] == "none"


def test_info_of_a_collection_and_of_a_callable_rate(tmp_path: Path) -> None:
    unhot.TableCollection({"a": (5, 2), "b": (4, 3)}, optimizer=unhot.SGD(lambda step: 0.1)).save(tmp_path / "x.safetensors")
    found = facts(run("info", tmp_path / "x.safetensors").stdout)
    assert found["tables"] == "a 5 x 2, F32, b 4 x 3, F32"
    assert found["optimizer"].startswith("SGD(learning_rate=<a callable>, ")


@pytest.mark.parametrize("format_", [name for name in ENDINGS if name != "safetensors"])
def test_info_of_vectors(format_: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{ENDINGS[format_]}"
    unhot.write_vectors(path, PLAIN, vectors(len(PLAIN), 5))
    found = facts(run("info", path).stdout)
    assert found["format"] == format_
    assert found["dim"] == "5"
    assert found["rows"] == ("as many as lines" if format_ in ("glove", "projector") else str(len(PLAIN)))
    assert found["keys"] == "texts"
    assert found["bytes"] == f"{path.stat().st_size:,}"


def test_convert(tmp_path: Path) -> None:
    source, target = tmp_path / "x.txt", tmp_path / "y.data"
    source.write_text("".join(f"key{i % 3} {i} 1\n" for i in range(5)))
    done = run("convert", source, target, "--to", "parquet")
    assert done.exit_code == 2
    assert "the key 'key0' occurs again, in row 3" in done.stderr
    assert not target.exists()
    done = run("convert", source, target, "--to", "parquet", "--duplicates", "first", "--dtype", "float64")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"3 rows: {target}\n"
    found = unhot.read_vectors(target, "parquet")
    assert found.keys == ["key0", "key1", "key2"]
    assert_bits(found.vectors, np.array([[0, 1], [1, 1], [2, 1.0]]))


def test_streams_of_arrow(tmp_path: Path) -> None:
    """`info` tells how many rows a stream has, and whether it is whole; `convert` makes a file of it."""
    source, target = tmp_path / "x.arrow", tmp_path / "y.arrow"
    table = pa.table({"key": [b"a", b"b"], "vector": [[0.5, 1.0], [2.0, 3.0]]})
    with pa.ipc.new_stream(source, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    found = facts(run("info", source).stdout)
    assert [found[name] for name in ("format", "rows", "dim", "dtype", "keys")] == ["arrow", "2", "2", "float64", "bytes"]
    assert run("convert", source, target).stdout == f"2 rows: {target}\n"
    assert unhot.read_vectors(target).keys == [b"a", b"b"]
    assert pa.ipc.open_file(target).read_all().equals(pa.feather.read_table(target))
    source.write_bytes(source.read_bytes()[:-8])
    for arguments in (("info", source), ("convert", source, tmp_path / "z.vec")):
        done = run(*arguments)
        assert done.exit_code == 2
        assert "truncated" in done.stderr


def test_convert_names_all_files_that_it_writes(tmp_path: Path) -> None:
    """TensorBoard's projector has two, which the page names as well."""
    unhot.write_vectors(tmp_path / "x.vec", ["a"], np.ones((1, 2)))
    page = (Path(__file__).parents[1] / "docs" / "saving.md").read_text()
    for name, labels in (("words.tsv", "words_metadata.tsv"), ("vectors.tsv", "metadata.tsv")):
        before = set(tmp_path.iterdir())
        done = run("convert", tmp_path / "x.vec", tmp_path / name)
        assert done.stdout == f"1 rows: {tmp_path / name} and {tmp_path / labels}\n"
        assert set(tmp_path.iterdir()) - before == {tmp_path / name, tmp_path / labels}
        assert f"`{name}`" in page
        assert f"`{labels}`" in page


def test_an_embedding(tmp_path: Path) -> None:
    """Its keys: `info` says what they are, and `convert` writes them."""
    users = unhot.Embedding(unhot.Vocabulary(["ann", "bob", "cid"], reserved=2), 3)
    users.remove(["bob"])
    users.save(tmp_path / "x.safetensors")
    assert facts(run("info", tmp_path / "x.safetensors").stdout)["keys"] == "texts"
    assert run("convert", tmp_path / "x.safetensors", tmp_path / "x.vec").stdout == f"2 rows: {tmp_path / 'x.vec'}\n"
    assert (tmp_path / "x.vec").read_text().split("\n")[0] == "2 3"
    found = unhot.read_vectors(tmp_path / "x.vec")
    assert found.keys == ["ann", "cid"]
    assert_bits(found.vectors, users[["ann", "cid"]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "none.vec"), "No such file"),
        (("info", "bad.safetensors"), "is announced"),
        (("convert", "none.vec", "x.npz"), "No such file"),
        (("convert", "bad.safetensors", "x.npz"), "is announced"),
        (("convert", "good.vec", "x.xyz"), "does not say its format"),
        (("convert", "good.vec", "x.npz", "--errors", "maybe"), "--errors must be one of 'strict'"),
        (("convert", "good.vec", "x.npz", "--duplicates", "maybe"), "--duplicates must be one of 'raise'"),
        (("convert", "good.vec", "x.npz", "--dtype", "int8"), "--dtype must be float32 or float64. Received: 'int8'"),
        (("convert", "good.vec", "x.npz", "--dim", "0"), "--dim must be a positive integer"),
        (("info", "good.vec", "--dim", "-1"), "--dim must be a positive integer"),
        (("convert", "good.vec", "none/x.npz"), "No such file"),
        (("convert", "good.vec", "x.xyz"), "Pass --to, one of"),
        (("convert", "good.xyz", "x.npz"), "Pass --from, one of"),
        (("info", "good.xyz"), "Pass --format, one of"),
        (
            ("convert", "twice.vec", "x.npz"),
            "Pass --duplicates first to leave out later vectors of the same key, or --duplicates keep",
        ),
        (("convert", "latin.vec", "x.npz"), "Pass --errors replace or --errors ignore to read it all the same"),
        (("convert", "latin.bin", "x.npz"), "Pass --errors replace or --errors ignore to read it all the same"),
        (("convert", "latin.tsv", "x.npz"), "Pass --errors replace or --errors ignore to read it all the same"),
        (("convert", "spaced.glove", "x.npz"), "If that key has spaces, pass --dim, the length of a vector"),
        (("info", "spaced.glove"), "If that key has spaces, pass --dim, the length of a vector"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.safetensors").write_bytes(b"x" * 100)
    Path("good.vec").write_text("1 1\nkey 1\n")
    Path("twice.vec").write_text("2 1\nkey 1\nkey 2\n")
    Path("latin.vec").write_bytes(b"1 1\n\xff 1\n")
    Path("latin.bin").write_bytes(b"1 1\n\xff " + bytes(4))
    Path("latin.tsv").write_text("1\n")
    Path("latin_metadata.tsv").write_bytes(b"\xff\n")
    Path("spaced.glove").write_text("New York 1 2\nRome 3 4\n")
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not re.search(r"`|\b\w+=", done.stderr), "an option as Python has it"
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout
    assert not list(tmp_path.glob("x.*"))


def test_the_command(tmp_path: Path) -> None:
    """As it is called; without its packages it names the extra."""
    source = tmp_path / "x.vec"
    source.write_text("1 1\nkey 1\n")
    command = [sys.executable, "-m", "unhot", "convert", str(source), str(tmp_path / "y.npz")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ""
    help_ = subprocess.run([sys.executable, "-m", "unhot", "--help"], capture_output=True, text=True, check=True).stdout
    assert all(name in help_ for name in ("compare", "info", "convert"))
    code = "import sys; sys.modules['typer'] = None; sys.argv = ['unhot', 'info', 'x']; from unhot.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert '`unhot info` needs typer, which is not installed: pip install "unhot[cli]"' in done.stderr
