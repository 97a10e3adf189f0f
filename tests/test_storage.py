"""Tables in files: training goes on bit for bit, a killed process or a full disk leaves a whole file, and others read it."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from interrupts import Interrupted, before_bytecode
from selection import slow
from snapshots import DTYPES, RULES, assert_bits, assert_held, held, train, trained

import unhot
from unhot.state import decoded
from unhot.storage import files
from unhot.storage import safetensors as ours
from unhot.storage.tables import opened, part

Array = np.ndarray[Any, np.dtype[Any]]


def half(step: int) -> float:
    return 0.5 / step


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.safetensors"


# ------------------------------------------------------------------ there and back


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_training_goes_on_bit_for_bit(rule: str, dtype: str, path: Path) -> None:
    table = trained(rule, dtype=dtype, steps=30)
    table.out_of_range = "zero"
    table.save(path)
    other = unhot.load(path)
    assert other.out_of_range == "zero"
    assert other.optimizer == table.optimizer
    assert type(other.optimizer) is type(table.optimizer)
    assert_held(other, held(table))
    for t in (table, other):
        train(t, 40, seed=3)
    assert_held(other, held(table))
    assert_bits(other.array, table.array)


@pytest.mark.parametrize("policy", ["raise", "zero", 0, 7])
def test_the_policy_for_ids_out_of_range(policy: Any, path: Path) -> None:
    unhot.Table(9, 3, out_of_range=policy).save(path)
    assert unhot.load(path).out_of_range == policy


def test_a_table_without_an_optimizer(path: Path) -> None:
    table = unhot.Table(9, 3, seed=0)
    table.save(path)
    assert unhot.load(path).optimizer is None
    assert_held(unhot.load(path), held(table))
    with pytest.raises(ValueError, match="saved without an optimizer"):
        unhot.load(path, optimizer=unhot.SGD(0.1))


def test_a_learning_rate_that_was_a_callable(path: Path) -> None:
    """No file can hold it: the error says to pass the optimizer, whose other hyperparameters become the file's."""
    table = unhot.Table(9, 3, optimizer=unhot.Adam(half, beta_1=0.8), seed=0)
    train(table, 10, seed=0)
    table.save(path)
    with pytest.raises(
        ValueError, match=r"learning rate was a callable.* unhot\.load\(path, optimizer=unhot\.Adam\(\.\.\.\)\)"
    ):
        unhot.load(path)
    optimizer = unhot.Adam(half)
    other = unhot.load(path, optimizer=optimizer)
    assert other.optimizer is optimizer
    assert optimizer.beta_1 == 0.8
    assert optimizer.learning_rate is half
    for t in (table, other):
        train(t, 10, seed=1)
    assert_held(other, held(table))


def test_another_optimizer_than_the_files(path: Path) -> None:
    trained("adam").save(path)
    given_ = unhot.SGD(0.3)
    with pytest.raises(ValueError, match="trained with Adam, and the table has SGD"):
        unhot.load(path, optimizer=given_)
    assert given_ == unhot.SGD(0.3)


def test_saving_takes_no_second_copy_of_the_table(path: Path) -> None:
    """What is written is what the table holds: peak memory grows by far less than its arrays take."""
    import tracemalloc

    table = unhot.Table(50_000, 64, optimizer=unhot.Adam(0.1), seed=0)
    table.step([1], np.ones((1, 64)))
    table.settle()
    tracemalloc.start()
    try:
        table.save(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 3 * 50_000 * 64 * 4
    assert peak < 50_000 * 64 * 4 / 4


def test_gradients_that_wait(path: Path) -> None:
    table = trained("adam")
    table.accumulate([1], np.ones((1, 3)))
    with pytest.raises(RuntimeError, match=r"call `step\(\)` before `save\(\)`"):
        table.save(path)
    assert not list(path.parent.iterdir())


def test_states_of_format_1(path: Path) -> None:
    """As they were saved by numpy.savez: numbers and strings that are Python's."""
    table = trained("nadam")
    old: dict[str, Any] = {}
    for name, value in table.state_dict().items():
        old[name] = value.tobytes().decode() if value.dtype == np.uint8 else value if value.ndim else value.item()
    old["format"] = 1
    assert old["rule"] == "NAdam"
    assert type(old["hyper.beta_1"]) is float
    np.savez(path.with_suffix(".npz"), **old)
    for state in (old, np.load(path.with_suffix(".npz"))):
        other = trained("nadam", seed=4)
        other.load_state_dict(state)
        assert_held(other, held(table))


def test_a_part_of_the_file(path: Path) -> None:
    """What belongs to the table is saved with it under names of its own."""
    table = trained("adam")
    table._save(path, {"keys": np.arange(7), "text": np.frombuffer(b"abc", np.uint8), "policy": "new", "count": 7})
    with opened(path) as (state, _):
        found = part(state, "vocabulary")
    assert found.keys() == {"keys", "text", "policy", "count"}
    assert (decoded(found, "policy"), decoded(found, "count")) == ("new", 7)
    assert_bits(found["keys"], np.arange(7))
    assert_held(unhot.load(path), held(table))


def test_collections(path: Path) -> None:
    sizes = {"user": (7, 4), "item.new": (5, 3), "a": (6, 2)}
    tables = unhot.TableCollection(sizes, optimizer=unhot.Adam(0.1), seed=0, out_of_range="zero")
    ids = np.array([[1, 2, 3], [0, 4, 5], [1, 9, 3]])
    tables.step(ids, np.ones((3, 9)))
    tables.save(path)
    others = unhot.TableCollection.load(path)
    assert others.names == tables.names
    assert repr(others) == repr(tables)
    for each in (tables, others):
        each.step(ids, np.full((3, 9), 0.5))
    assert_bits(others.lookup(ids), tables.lookup(ids))
    assert others.clock == 2
    with pytest.raises(ValueError, match=r"unhot\.TableCollection\.load\(path\)"):
        unhot.load(path)
    trained("adam").save(path)
    with pytest.raises(ValueError, match=r"unhot\.load\(path\)"):
        unhot.TableCollection.load(path)


def test_one_moment_of_a_table_that_is_trained(path: Path) -> None:
    """Steps of another thread wait for the file, or come before: the weights are always those of the clock."""
    table = unhot.Table(200, 64, optimizer=unhot.SGD(1.0), init="zeros")
    ids, grads, done = np.arange(200), -np.ones((200, 64), np.float32), threading.Event()

    def work() -> None:
        while not done.is_set():
            table.step(ids, grads)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(20):
            table.save(path)
            saved = unhot.load(path)
            assert (saved.array == saved.clock).all()
    finally:
        done.set()
        worker.join()


# ------------------------------------------------------------------ the package `safetensors`


@pytest.mark.parametrize("rule", RULES)
def test_the_package_reads_our_files(rule: str, path: Path) -> None:
    """Its reader gives the arrays of the state and the metadata, and what it read can be loaded."""
    table = trained(rule, dtype="float64")
    table.save(path)
    state = table.state_dict()
    read = safetensors.numpy.load_file(path)
    assert read.keys() == state.keys()
    for name, value in state.items():
        assert_bits(read[name], value)
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata()["unhot.kind"] == "table"
    other = trained(rule, dtype="float64", seed=4)
    other.load_state_dict(read)
    assert_held(other, held(table))


@pytest.mark.parametrize("rule", RULES)
def test_we_read_the_packages_files(rule: str, path: Path) -> None:
    """`save_file` takes a state as it is, and `unhot.load` takes its file."""
    table = trained(rule)
    safetensors.numpy.save_file(table.state_dict(), path, metadata={"from": "elsewhere"})
    assert_held(unhot.load(path), held(table))


NAMED = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    arrays_of.arrays(
        st.sampled_from([np.dtype(dtype) for dtype in ours.DTYPES.values()]),
        arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    max_size=5,
)


@given(NAMED, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_any_arrays_both_ways(contents: dict[str, Array], metadata: dict[str, str]) -> None:
    """Every dtype, shape and name: the package reads what we write, and we what it writes."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"unhot-{os.getpid()}.safetensors"
    try:
        files.replace(path, lambda file: ours.write(file, contents, metadata))
        read = safetensors.numpy.load_file(path)
        assert read.keys() == contents.keys()
        with safetensors.safe_open(path, framework="np") as file:
            assert metadata.items() <= file.metadata().items()
        for name, array in contents.items():
            assert_bits(read[name], array)
        safetensors.numpy.save_file(contents, path, metadata=metadata or None)  # of {} it makes a header that is no JSON
        with opened(path) as (state, header):
            assert header.metadata == metadata
            assert state.keys() == contents.keys()
            for name, array in contents.items():
                assert_bits(state[name], array)
    finally:
        path.unlink(missing_ok=True)


@given(NAMED)
def test_arrays_lie_at_multiples_of_what_divides_their_size(contents: dict[str, Array]) -> None:
    """So rows lie as in memory that begins at a cache line; there are no holes, which the format forbids."""
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"unhot-{os.getpid()}.safetensors"
    try:
        files.replace(path, lambda file: ours.write(file, contents, {}))
        with opened(path) as (_, header):
            assert header.stop % 64 == 0
            for entry in header.entries.values():
                size = entry.stop - entry.start
                assert entry.start % np.gcd(size, 64) == 0
    finally:
        path.unlink(missing_ok=True)


# ------------------------------------------------------------------ crashes

KILLED = """
import os, random, signal, sys, time
import numpy as np
import unhot

path, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
table = unhot.Table(20_000, 16, optimizer=unhot.SGD(1.0), init="zeros")
ids, grads = np.arange(table.rows), -np.ones(table.shape, np.float32)
unhot.set_num_threads(1)
began = time.perf_counter()
for _ in range(3):
    table.save(path)
one = (time.perf_counter() - began) / 3
chance, latest, left = random.Random(seed), 0, 0
for number in range(count):
    child = os.fork()
    if not child:
        while True:
            table.step(ids, grads)
            table.save(path)
    time.sleep(chance.uniform(0, 4 * one))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    table = unhot.load(path)
    assert (table.array == table.clock).all(), "torn"
    assert table.clock >= latest, "an older file"
    latest = table.clock
    others = os.listdir(os.path.dirname(path))
    assert len(others) <= 2, others
    left += len(others) - 1
table.save(path)
assert len(os.listdir(os.path.dirname(path))) == 1
print(latest, left)
"""


def kill(path: Path, count: int, seed: int) -> tuple[int, int]:
    """The number of the last table that was saved, and how many of the killed left a part of a file."""
    command = [sys.executable, "-c", KILLED, str(path), str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    saved, left = map(int, done.stdout.split())
    return saved, left


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=slow)])
def test_killed_at_random_moments(count: int, path: Path) -> None:
    """SIGKILL while a process saves in a loop: the old file or the new one is there, whole, every time."""
    saved, left = kill(path, count, seed=count)
    assert saved > count / 4, "nothing was saved in between"
    assert left > 0, "none was killed while it wrote"


def test_the_file_is_on_the_disk_before_it_is_renamed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut finds one of the two: first the content is brought to the disk, then the name, then the folder."""
    calls: list[str] = []
    fsync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        of_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("folder" if of_folder else f"file of {os.fstat(descriptor).st_size}")
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        calls.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.delattr(files.fcntl, "F_FULLFSYNC", raising=False)
    trained("adam").save(path)
    assert calls == [f"file of {path.stat().st_size}", "rename", "folder"]


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may become larger than 8 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk(there: bool, path: Path, request: pytest.FixtureRequest) -> None:
    """The error says what happened; the old file stays, and nothing is left beside it."""
    small = unhot.Table(10, 4, optimizer=unhot.Adam(), seed=0)
    if there:
        small.save(path)
    request.getfixturevalue("little_room")
    with pytest.raises(OSError, match=f"File too large: writing .* failed.{' The file that was there is unchanged' * there}"):
        unhot.Table(1000, 4, optimizer=unhot.Adam()).save(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name] * there
    if there:
        assert_held(unhot.load(path), held(small))


def test_an_exception_at_every_moment(path: Path, everything: bool) -> None:
    """Ctrl-C leaves the old file or the new one, and the table as it was."""
    table = trained("sgd", steps=3)
    table.save(path)
    old, table = path.read_bytes(), trained("sgd", steps=4)
    before, number, news = held(table), 0, 0

    def interrupt() -> None:
        raise Interrupted

    while True:
        try:
            there = before_bytecode(lambda: table.save(path), number, interrupt)
        except Interrupted:
            there = True
        if not there:
            break
        if path.read_bytes() != old:
            assert unhot.load(path).clock == 4
            news += 1
        assert_held(table, before)
        number += 1 if everything else 37
    assert news


def test_a_handler_that_trains_the_table(path: Path) -> None:
    """A signal's handler steps the table while it is being written: the file holds the table before or after, not a mixture."""
    for number in range(0, 4000, 97):
        table = unhot.Table(30, 2, optimizer=unhot.SGD(1.0), init="zeros")
        step = partial(table.step, np.arange(30), -np.ones((30, 2), np.float32))
        if not before_bytecode(partial(table.save, path), number, step):
            assert number > 500
            break
        saved = unhot.load(path)
        assert (saved.array == saved.clock).all()


# ------------------------------------------------------------------ what else is at the path


def test_a_link_stays_a_link_and_permissions_stay(tmp_path: Path) -> None:
    path, link = tmp_path / "table.safetensors", tmp_path / "latest.safetensors"
    trained("sgd").save(path)
    path.chmod(0o640)
    link.symlink_to(path)
    trained("adam").save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert type(unhot.load(path).optimizer) is unhot.Adam


def test_what_is_no_file(tmp_path: Path) -> None:
    """A folder or a device is not replaced by a file."""
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(ValueError, match="exists and is no file"):
            trained("sgd").save(path)
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OSError, match=r"No such file.*writing .* failed\."):
        trained("sgd").save(tmp_path / "none" / "table.safetensors")
    with pytest.raises(FileNotFoundError):
        unhot.load(tmp_path / "none.safetensors")


def test_a_file_that_another_process_writes_is_left_alone(path: Path) -> None:
    """Only what the dead have left is removed; the living hold a lock."""
    living, dead = (path.with_name(f".{path.name}.{name}{files.ENDING}") for name in ("0a", "0b"))
    dead.write_bytes(b"part")
    with open(living, "xb") as file:
        assert files.locked(file.fileno())
        trained("sgd").save(path)
        assert living.exists()
        assert not dead.exists()


def test_paths_of_every_kind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strings and paths, also without a folder."""
    monkeypatch.chdir(path.parent)
    table = trained("sgd")
    for name in (path.name, Path(path.name), path):
        table.save(name)
        assert_held(unhot.load(name), held(table))
        path.unlink()
