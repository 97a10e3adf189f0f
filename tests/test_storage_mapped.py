"""Tables that stay in their files: reading without copies, training in place, and what a crash can lose."""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupts import Interrupted, before_bytecode
from selection import slow
from snapshots import DTYPES, RULES, assert_bits, assert_held, held, stream, train, trained
from test_storage_hostile import ADAM, BROKEN, bytes_changed, headers

import unhot
from unhot.storage import files, undo
from unhot.storage import safetensors as ours


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.safetensors"


WAYS: tuple[dict[str, Any], ...] = ({}, {"mmap": True}, {"mmap": True, "mode": "r+"})
"""In which a file is opened."""

# ------------------------------------------------------------------ reading


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 3, 16])
def test_lookups_are_those_of_the_table(dim: int, dtype: str, path: Path) -> None:
    table = trained("adam", dim=dim, dtype=dtype)
    table.out_of_range = "zero"
    table.save(path)
    mapped = unhot.load(path, mmap=True)
    ids = np.array([[3, 1], [8, 99]])
    assert (mapped.shape, mapped.dtype, mapped.clock, mapped.optimizer) == (table.shape, table.dtype, table.clock, None)
    assert_bits(mapped.lookup(ids), table.lookup(ids))
    assert_bits(mapped.bag(ids, mode="mean"), table.bag(ids, mode="mean"))
    assert_bits(mapped.bag(ids, mode="max"), table.bag(ids, mode="max"))
    x = np.random.default_rng(0).normal(size=(4, 9))
    assert_bits(mapped.matmul(x), table.matmul(x))
    assert_bits(mapped.array, table.array)
    mapped.settle()


def test_weights_are_the_files_and_stay_as_they_are(path: Path) -> None:
    """No copy: the arrays lie in the mapping. Whatever happens to them in memory does not reach the file."""
    trained("adam").save(path)
    before = path.read_bytes()
    mapped = unhot.load(path, mmap=True)
    weights = mapped._engine.stores[0].weights
    base: Any = weights
    while isinstance(base, np.ndarray):
        base = base.base
    assert memoryview(base).obj is mapped._views.memory  # type: ignore[union-attr]
    assert weights.ctypes.data % 4 == 0
    weights[...] = 7  # as no code does
    del mapped, weights, base
    assert path.read_bytes() == before


def test_a_step_says_what_to_do(path: Path) -> None:
    table = trained("adam")
    table.save(path)
    mapped = unhot.load(path, mmap=True)
    for train_it in (lambda: mapped.step([1], np.ones((1, 3))), lambda: mapped.accumulate([1], np.ones((1, 3)))):
        with pytest.raises(RuntimeError, match=r"mapped for reading.* unhot\.load\(path\).* mode='r\+'"):
            train_it()
    with pytest.raises(RuntimeError, match="mapped for reading"):
        mapped.flush()
    with pytest.raises(RuntimeError, match="a state is not loaded into a file"):
        mapped.load_state_dict(table.state_dict())
    assert_bits(mapped.array, table.array)


def test_copies_are_in_memory(path: Path) -> None:
    table = trained("sgd momentum")
    table.save(path)
    mapped = unhot.load(path, mmap=True, mode="r+")
    train(mapped, 5, seed=1)
    train(table, 5, seed=1)
    before = held(mapped)
    for other in (copy.deepcopy(mapped), copy.copy(mapped), pickle.loads(pickle.dumps(mapped))):
        assert type(other) is unhot.Table
        assert_held(other, before)
        train(other, 5, seed=2)
        assert_held(mapped, before)
    mapped.close()


def test_saving_what_is_mapped(path: Path) -> None:
    """To another file; over itself, a table mapped for reading would lose its slots."""
    trained("adam").save(path)
    mapped = unhot.load(path, mmap=True)
    with pytest.raises(ValueError, match="this is the file that is mapped"):
        mapped.save(path)
    other = path.with_name("other.safetensors")
    mapped.save(other)
    assert_bits(unhot.load(other).array, mapped.array)


def test_a_closed_table(path: Path) -> None:
    trained("adam").save(path)
    with unhot.load(path, mmap=True) as mapped:
        mapped.lookup([1])
    mapped.close()
    with pytest.raises(ValueError, match=r"the table was closed\. Open it again with unhot\.load\('.*', mmap=True\)"):
        mapped.lookup([1])


def test_a_replaced_file(path: Path) -> None:
    """Whoever reads the old file goes on reading it."""
    table = trained("adam")
    table.save(path)
    mapped = unhot.load(path, mmap=True)
    trained("adam", seed=5).save(path)
    assert_bits(mapped.array, table.array)
    assert_bits(unhot.load(path, mmap=True).array, trained("adam", seed=5).array)


def test_files_of_the_package(path: Path) -> None:
    """Mapped for reading if the arrays are aligned; never trained in place, since they have no mark."""
    table = trained("adam")
    safetensors.numpy.save_file(table.state_dict(), path)
    assert_bits(unhot.load(path, mmap=True).array, table.array)
    with pytest.raises(ValueError, match=r"only files that `Table\.save` wrote can be trained in place"):
        unhot.load(path, mmap=True, mode="r+")
    data = path.read_bytes()
    stop = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes((stop - 7).to_bytes(8, "little") + data[8:stop] + b" " + data[stop:])
    with pytest.raises(ValueError, match=r"'format' is not aligned: read the file with unhot\.load"):
        unhot.load(path, mmap=True)
    assert_bits(unhot.load(path).array, table.array)


def test_a_huge_file_opens_at_once(path: Path) -> None:
    """Ten gigabytes, of which the system holds none: opened in milliseconds, without memory."""
    rows, dim = 40_000_000, 64
    header = (
        b'{"__metadata__":{"unhot.whole":"yes","unhot.crc32":""},"weights":{"dtype":"F32","shape":[%d,%d],"data_offsets":[0,%d]},'
        b'"format":{"dtype":"I64","shape":[],"data_offsets":[%d,%d]},"clock":{"dtype":"I64","shape":[],"data_offsets":[%d,%d]}}'
    )
    size = rows * dim * 4
    text = header % (rows, dim, size, size, size + 8, size + 8, size + 16)
    text += b" " * (-(len(text) + 8) % 64)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size + 16)
        file.seek(-16, 2)
        file.write((2).to_bytes(8, "little") + bytes(8))
    times = []
    for _ in range(5):
        began = time.perf_counter()
        mapped = unhot.load(path, mmap=True)
        times.append(time.perf_counter() - began)
        assert mapped.lookup([0, rows - 1]).tolist() == np.zeros((2, dim)).tolist()
        mapped.close()
    assert min(times) < 0.02


# ------------------------------------------------------------------ hostile files


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_with_a_mapped_file(name: str, mode: Any, path: Path) -> None:
    """As when it is loaded, where it concerns the weights; the file is not changed."""
    data, _ = BROKEN[name]
    path.write_bytes(data)
    of_slots_or_sums = any(word in name for word in ("slot", "optimizer", "rate", "beta", "damaged", "checksums"))
    if of_slots_or_sums and (mode == "r" or "optimizer" not in name):
        with suppress(ValueError):
            unhot.load(path, mmap=True, mode=mode).close()
    else:
        with pytest.raises(ValueError, match=f"^'{re.escape(str(path))}': "):
            unhot.load(path, mmap=True, mode=mode)
    if mode == "r":
        assert path.read_bytes() == data


@pytest.mark.parametrize("kind", [headers, bytes_changed], ids=lambda kind: kind.__name__)
def test_fuzzed(kind: Any, path: Path, everything: bool) -> None:
    """A mapped table looks up, or the file is refused."""

    @settings(max_examples=2000 if everything else 60)
    @given(kind(), st.sampled_from(["r", "r+"]))
    def check(data: bytes, mode: Any) -> None:
        path.write_bytes(data)
        try:
            mapped = unhot.load(path, mmap=True, mode=mode)
        except ValueError:
            return
        mapped.lookup(np.arange(mapped.rows))
        mapped.close()

    check()


# ------------------------------------------------------------------ training in place


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_training_in_place_is_training(rule: str, dtype: str, path: Path) -> None:
    """The same bits as in memory, with flushes between, and after opening it again."""
    table = trained(rule, dtype=dtype, steps=30)
    table.save(path)
    for seed in (1, 2):
        with unhot.load(path, mmap=True, mode="r+") as mapped:
            assert_held(mapped, held(table))
            for t in (mapped, table):
                train(t, 20, seed)
            mapped.flush()
            table.settle()
            for t in (mapped, table):
                t.optimizer.learning_rate = 0.02 * seed
                train(t, 10, seed + 10)
        table.settle()
        other = unhot.load(path)
        assert other.optimizer == table.optimizer
        assert_held(other, held(table))


def test_settled_arrays_go_straight_into_the_file(path: Path) -> None:
    """Neither weights nor slots are copied when a file is opened for training."""
    trained("adamw amsgrad").save(path)
    mapped = unhot.load(path, mmap=True, mode="r+")
    views = mapped._views
    assert views is not None
    store = mapped._engine.stores[0]
    names = ["weights", *(f"slot.{name}" for name in mapped._engine.clock.slots)]  # type: ignore[union-attr]
    for name, array in zip(names, store.state, strict=True):
        assert np.shares_memory(array, views[name])
    mapped.close()


def test_a_file_says_while_it_is_trained(path: Path) -> None:
    """From the first step until `flush`, the file is refused; before and after it is whole."""
    table = trained("adam")
    table.save(path)
    whole = path.read_bytes()
    mapped = unhot.load(path, mmap=True, mode="r+")
    assert path.read_bytes() == whole
    for _ in range(2):
        mapped.step([1], np.ones((1, 3)))
        copied = path.with_name("copy.safetensors")
        copied.write_bytes(path.read_bytes())  # as the disk holds it: pages of the mapping are the file's
        for way in WAYS:
            with pytest.raises(ValueError, match=r"trained in this file.* before `flush\(\)`.* Take a copy that was saved"):
                unhot.load(copied, **way)
        mapped.flush()
        copied.write_bytes(path.read_bytes())
        other = unhot.load(copied)
        assert_held(other, held(mapped))
    mapped.close()


def test_a_flush_without_a_step_changes_nothing(path: Path) -> None:
    table = trained("adam")
    table.save(path)
    whole = path.read_bytes()
    with unhot.load(path, mmap=True, mode="r+") as mapped:
        mapped.flush()
    assert path.read_bytes() == whole


def test_one_process_trains_and_nobody_reads_meanwhile(path: Path) -> None:
    trained("adam").save(path)
    with unhot.load(path, mmap=True, mode="r+"):
        for way in WAYS:
            with pytest.raises(BlockingIOError, match="trained by another process, or opened in this one"):
                unhot.load(path, **way)
    with unhot.load(path, mmap=True), unhot.load(path, mmap=True):
        unhot.load(path)
        with pytest.raises(BlockingIOError, match="read or trained by another process"):
            unhot.load(path, mmap=True, mode="r+")
    unhot.load(path, mmap=True, mode="r+").close()


def test_a_forked_child_does_not_train_it(path: Path) -> None:
    trained("adam").save(path)
    mapped = unhot.load(path, mmap=True, mode="r+")
    child = os.fork()
    if not child:
        code = 1
        try:
            mapped.step([1], np.ones((1, 3)))
        except RuntimeError as error:
            code = 0 if "was forked from the one that trains" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    mapped.close()


def test_what_the_file_has_no_room_for(path: Path) -> None:
    """An optimizer of another name, or a rate that is a callable: the error says so, nothing is lost, and it can be saved."""
    table = trained("adam")
    table.save(path)
    mapped = unhot.load(path, mmap=True, mode="r+")
    mapped.step([1], np.ones((1, 3)))
    own = mapped.optimizer
    mapped.optimizer = unhot.AdamW(0.1)
    mapped.step([2], np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"no room for 'rule' of AdamW.* under another name"):
        mapped.flush()
    mapped.save(path.with_name("other.safetensors"))
    assert_held(unhot.load(path.with_name("other.safetensors")), held(mapped))
    mapped.optimizer = own
    mapped.optimizer.learning_rate = lambda step: 0.1
    with pytest.raises(ValueError, match="the learning rate is a callable"):
        mapped.flush()
    mapped.optimizer.learning_rate = 0.5
    mapped.close()
    assert unhot.load(path).clock == table.clock + 2


def test_gradients_that_wait(path: Path) -> None:
    trained("adam").save(path)
    mapped = unhot.load(path, mmap=True, mode="r+")
    mapped.accumulate([1], np.ones((1, 3)))
    for end in (mapped.flush, mapped.close):
        with pytest.raises(RuntimeError, match=r"call `step\(\)` before `flush\(\)`"):
            end()
    mapped.step()
    mapped.close()


def test_a_file_that_was_replaced_meanwhile(path: Path) -> None:
    """What is trained would be lost with the old file: an error says so."""
    table = trained("adam")
    table.save(path)
    mapped = unhot.load(path, mmap=True, mode="r+")
    mapped.step([1], np.ones((1, 3)))
    table.save(path)
    with pytest.raises(RuntimeError, match=r"was replaced or removed.* Save the table under another name"):
        mapped.flush()
    path.unlink()
    with pytest.raises(RuntimeError, match="was replaced or removed"):
        mapped.close()
    mapped.save(path.with_name("other.safetensors"))
    table.step([1], np.ones((1, 3)))
    assert_bits(unhot.load(path.with_name("other.safetensors")).array, table.array)


def test_wrong_arguments(path: Path) -> None:
    trained("adam").save(path)
    with pytest.raises(ValueError, match=r"`mode` must be 'r' or 'r\+'. Received: 'w'"):
        unhot.load(path, mmap=True, mode="w")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="`mode` is for mmap=True"):
        unhot.load(path, mode="r+")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="has no optimizer: leave it out"):
        unhot.load(path, mmap=True, optimizer=unhot.Adam())
    unhot.load(path, mmap=True, mode="r+", optimizer=unhot.Adam()).close()


def test_signals_while_it_is_trained(path: Path, everything: bool) -> None:
    """An exception at any moment of a step or a flush leaves the table before or after; the file is whole or says it is not."""
    batches = list(stream(9, 3, 2, seed=1))
    base = trained("adam", steps=20)
    expected = []
    for count in range(len(batches) + 1):
        table = copy.deepcopy(base)
        for batch in batches[:count]:
            table.step(*batch)
        expected.append(table.array)
    base.save(path)
    whole = path.read_bytes()

    def work() -> None:
        for batch in batches:
            mapped.step(*batch)
            mapped.flush()

    def interrupt() -> None:
        raise Interrupted

    number, refused, there = 0, 0, True
    while there:
        path.write_bytes(whole)
        mapped = unhot.load(path, mmap=True, mode="r+")
        with suppress(Interrupted):
            there = before_bytecode(work, number, interrupt)
        made = mapped.clock - base.clock
        np.testing.assert_allclose(mapped.array, expected[made], rtol=1e-5, atol=1e-7)
        copied = path.with_name("copy.safetensors")
        copied.write_bytes(path.read_bytes())
        if b'"unhot.whole":"no "' in copied.read_bytes():
            refused += 1
        else:
            other = unhot.load(copied)
            assert other.clock <= mapped.clock
            np.testing.assert_allclose(other.array, expected[other.clock - base.clock], rtol=1e-5, atol=1e-7)
        mapped.close()
        assert unhot.load(path).clock == base.clock + made
        number += 29 if everything else 301
    assert refused


KILLED = """
import os, random, signal, sys, time
import numpy as np
import unhot

path, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rows = 20_000
table = unhot.Table(rows, 16, optimizer=unhot.SGD(1.0, weight_decay=0.5), init="zeros")
unhot.set_num_threads(1)
chance, whole, refused, flushed, recovered = random.Random(seed), 0, 0, 0, 0
noted = os.path.exists("/proc/sys/kernel/random/boot_id")
table.save(path)
with open(path, "rb") as file:
    start = file.read()
for number in range(count):
    with open(path, "wb") as file:
        file.write(start)
    child = os.fork()
    if not child:
        mapped = unhot.load(path, mmap=True, mode="r+")
        for step in range(10**9):
            mapped.step(np.arange(step % 3, rows, 3), -np.ones((len(range(step % 3, rows, 3)), 16), np.float32))
            if step % 4 == 3:
                mapped.flush()
    time.sleep(chance.uniform(0.0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(path, "rb") as file:
        unfinished = b'"unhot.whole":"no "' in file.read(4096)
    try:
        found = unhot.load(path)
    except ValueError as error:
        assert "trained in this file" in str(error) and not noted, error
        refused += 1
        continue
    others = [name for name in os.listdir(os.path.dirname(path)) if name != os.path.basename(path)]
    assert not others or len(others) == 1 and others[0].endswith(".unhot-part"), others
    assert found.clock % 4 == 0, "not as of a flush"
    recovered += unfinished
    expected = unhot.Table(rows, 16, optimizer=unhot.SGD(1.0, weight_decay=0.5), init="zeros")
    for step in range(found.clock):
        expected.step(np.arange(step % 3, rows, 3), -np.ones((len(range(step % 3, rows, 3)), 16), np.float32))
        if step % 4 == 3:
            expected.settle()
    assert (found.array == expected.array).all(), "torn"
    whole += 1
    flushed += found.clock > 0
print(whole, refused, flushed, recovered)
"""


@pytest.mark.parametrize("count", [15, pytest.param(200, marks=slow)])
def test_killed_while_it_is_trained(count: int, path: Path) -> None:
    """SIGKILL at a random moment: the file is read as of a flush, brought back if need be, or refused on other systems."""
    command = [sys.executable, "-c", KILLED, str(path), str(count), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole, refused, flushed, recovered = map(int, done.stdout.split())
    assert whole + refused == count
    assert refused + recovered > count / 4
    if count > 100:
        assert flushed > 0


def nothing(mapped: unhot.MappedTable) -> None:
    """What a process may do before it is killed."""


def killed(path: Path, *, steps: int = 3, flushed: int = 1, at_last: Callable[[unhot.MappedTable], object] = nothing) -> None:
    """A process trains the table in its file, and is killed: after so many steps, of which some were flushed."""
    child = os.fork()
    if not child:
        try:
            mapped = unhot.load(path, mmap=True, mode="r+")
            for number, batch in enumerate(stream(9, 3, steps, seed=1)):
                mapped.step(*batch)
                if number == flushed - 1:
                    mapped.flush()
            at_last(mapped)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


NOTED = pytest.mark.skipif(undo.boot() is None, reason="rows are noted on Linux")


@NOTED
@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_back_to_the_last_flush(rule: str, way: dict[str, Any], path: Path) -> None:
    """However the file is opened next, weights, slots, clock and hyperparameters are those of the flush."""
    table = trained(rule)
    table.save(path)
    killed(path)
    assert Path(undo.notes_path(str(path))).exists()
    with open(path, "rb") as file:
        assert b'"unhot.whole":"no "' in file.read(4096)
    found = unhot.load(path, **way)
    assert not Path(undo.notes_path(str(path))).exists()
    for batch in itertools.islice(stream(9, 3, 3, seed=1), 1):
        table.step(*batch)
    table.settle()
    assert_bits(found.array, table.array)
    if isinstance(found, unhot.MappedTable):
        found.close()
    assert_held(unhot.load(path), held(table))


def noted_again(mapped: unhot.MappedTable) -> None:
    """Steps whose rows are noted a second time, as a signal's handler may bring about."""
    assert mapped._notes is not None
    mapped._notes._noted[:] = False
    for batch in stream(9, 3, 5, seed=1):
        mapped.step(*batch)


def optimizer_changed(mapped: unhot.MappedTable) -> None:
    """Hyperparameters that a flush had begun to write."""
    assert mapped.optimizer is not None
    mapped.optimizer.learning_rate = 0.5
    mapped._engine.settled(mapped._write_numbers)


@NOTED
@pytest.mark.parametrize("at_last", [unhot.MappedTable.settle, noted_again, optimizer_changed], ids=lambda work: work.__name__)
def test_back_from_anything(at_last: Callable[[unhot.MappedTable], object], path: Path) -> None:
    """Rows that were settled, rows that were noted twice, and numbers, go back as well."""
    table = trained("adamw amsgrad", steps=30)
    table.save(path)
    for flushed in (0, 1):
        killed(path, flushed=flushed, at_last=at_last)
        if flushed:
            for batch in itertools.islice(stream(9, 3, 3, seed=1), 1):
                table.step(*batch)
        table.settle()
        assert_held(unhot.load(path), held(table))


@NOTED
def test_notes_that_are_of_no_use(path: Path) -> None:
    """Those of another file or start of the machine, and damaged ones, change nothing: the table is refused."""
    trained("adam").save(path)
    killed(path)
    notes, crashed = Path(undo.notes_path(str(path))), path.read_bytes()
    good = notes.read_bytes()
    copied = path.with_name("copy.safetensors")
    copied.write_bytes(crashed)
    Path(undo.notes_path(str(copied))).write_bytes(good)
    with pytest.raises(ValueError, match="there are no notes by which they could be brought back"):
        unhot.load(copied)
    first = good.index(b'"boot"')
    bad = [b"", good[:5], good[:40], good.replace(b"-", b"_"), good[:first] + b"x" + good[first + 1 :], good[:-40]]
    for number in range(0, len(good) - 12, 7):
        bad.append(good[:number] + bytes([good[number] ^ 1]) + good[number + 1 :])
    forgiven = 0
    for content in bad:
        notes.write_bytes(content)
        try:
            unhot.load(path)
        except ValueError:
            assert path.read_bytes() == crashed
        else:  # what stands between the records, and after the last, does not matter
            path.write_bytes(crashed)
            assert content not in bad[:6]
            forgiven += 1
    assert forgiven < len(bad) / 8
    notes.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="trained in this file"):
        unhot.load(path)
    notes.write_bytes(good)
    unhot.load(path)


@NOTED
def test_a_note_that_was_not_completed(path: Path) -> None:
    """The process was killed while it noted a row, which it had not changed yet."""
    table = trained("adam")
    table.save(path)
    killed(path, steps=2, flushed=0)
    with open(undo.notes_path(str(path)), "r+b") as file:
        file.seek(-len(undo.NO_MORE), 2)
        assert file.read() == undo.NO_MORE
        file.write(os.urandom(100))
    table.settle()
    assert_held(unhot.load(path), held(table))


@NOTED
def test_notes_beside_a_file_that_is_whole(path: Path) -> None:
    """Of a process that was killed just after a flush, or of a file that was replaced since: they are dropped."""
    table = trained("adam")
    table.save(path)
    killed(path)
    table.save(path)
    table.settle()
    assert_held(unhot.load(path), held(table))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@NOTED
def test_a_step_that_cannot_be_noted(path: Path) -> None:
    """On a full disk, the step is not made, and the table goes on when there is room again."""
    table = unhot.Table(2000, 4, optimizer=unhot.SGD(1.0), init="zeros")
    table.save(path)
    mapped = unhot.load(path, mmap=True, mode="r+")
    mapped.step([1], -np.ones((1, 4)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            mapped.step(np.arange(2000), -np.ones((2000, 4)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert mapped.clock == 1
    assert mapped.array.sum() == 4
    mapped.step(np.arange(2000), -np.ones((2000, 4)))
    mapped.close()
    assert unhot.load(path).array.sum() == 8004


@pytest.mark.parametrize("flushing", [False, True])
def test_handlers_that_train_it(flushing: bool, path: Path, everything: bool) -> None:
    """A signal's handler makes a step, and perhaps a flush, at any moment of a step or a flush.

    Whatever the process is killed after that, the file holds some step, as a whole, and no older one than the last flush.
    """
    table = unhot.Table(6, 2, optimizer=unhot.SGD(1.0, weight_decay=0.0), init="zeros")
    table.save(path)
    whole, ids, grads = path.read_bytes(), np.arange(6), -np.ones((6, 2), np.float32)

    def handler() -> None:
        mapped.step(ids, grads)
        if flushing:
            mapped.flush()
            flushed.append(mapped.clock)

    def work() -> None:
        for _ in range(2):
            mapped.step(ids, grads)
            mapped.flush()
            flushed.append(0)
        mapped.step(ids, grads)

    number, there = 0, True
    while there:
        path.write_bytes(whole)
        flushed: list[int] = []
        mapped = unhot.load(path, mmap=True, mode="r+")
        there = before_bytecode(work, number, handler)
        assert (mapped.array == mapped.clock).all()
        assert mapped._file is not None
        files.unlock(mapped._file.fileno())  # as if the process were gone
        with open(path, "rb") as file:
            unfinished = b'"unhot.whole":"no "' in file.read(4096)
        assert unfinished or (flushing and flushed[-1])
        if undo.boot() is not None:
            found = unhot.load(path)
            assert (found.array == found.clock).all()
            assert found.clock >= max(2, *flushed)
        Path(undo.notes_path(str(path))).unlink(missing_ok=True)
        number += 29 if everything else 301
    assert number > 500


def test_the_mark_is_in_the_hostile_file() -> None:
    """The files that are fuzzed have one."""
    assert b'"unhot.whole":"yes"' in ADAM
    assert ours.CHECKSUMS.encode() in ADAM
    assert files.ENDING


@pytest.mark.parametrize("what", ["array", "np.asarray", "save", "state_dict", "settle", "flush", "close", "deepcopy"])
def test_a_forked_child_changes_nothing_of_it(what: str, path: Path) -> None:
    """Rows whose steps are deferred would be settled there, and here once more; a lookup changes nothing."""
    table = trained("adam")
    table.save(path)
    mapped = unhot.load(path, mmap=True, mode="r+")
    for one in (table, mapped):
        one.step([1], np.ones((1, 3)))
        one.step([2], np.ones((1, 3)))
    calls: dict[str, Callable[[], object]] = {
        "array": lambda: mapped.array,
        "np.asarray": lambda: np.asarray(mapped),
        "save": lambda: mapped.save(f"{path}.other"),
        "state_dict": mapped.state_dict,
        "settle": mapped.settle,
        "flush": mapped.flush,
        "close": mapped.close,
        "deepcopy": lambda: copy.deepcopy(mapped),
    }
    child = os.fork()
    if not child:
        code = 1
        try:
            looked_up = mapped.lookup([1, 2])
            calls[what]()
            code = 3 if what != "deepcopy" else 0  # which holds rows as they are deferred
        except RuntimeError as error:
            code = 0 if "was forked from" in str(error) and looked_up.any() else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(BlockingIOError):  # it is still open here
        unhot.load(path, mmap=True, mode="r+")
    for one in (table, mapped):
        one.step([2], np.ones((1, 3)))
    np.testing.assert_array_equal(mapped.array, table.array)
    mapped.close()
    np.testing.assert_array_equal(unhot.load(path).array, table.array)
