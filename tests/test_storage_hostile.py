"""Files that are truncated, damaged or made to do harm: a clear ValueError, or a table, without allocating what they claim."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import assert_held, held, trained

import unhot
from unhot.storage import files
from unhot.storage import safetensors as ours

Array = np.ndarray[Any, np.dtype[Any]]
Described = dict[str, Any]


def file_of(table: unhot.Table) -> bytes:
    """The bytes of a table's file."""
    buffer = io.BytesIO()
    table._write(buffer, {}, 0)
    return buffer.getvalue()


ADAM = file_of(trained("adam"))
NADAM = file_of(trained("nadam"))


def parts(data: bytes) -> tuple[Described, bytes]:
    """The header of a file, and the arrays' bytes."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: bytes | Described, content: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content


def replaced(data: bytes, name: str, value: Any) -> bytes:
    """The file with another value in the place of the array `name`, and without checksums."""
    header, content = parts(data)
    start = 0
    made: Described = {"__metadata__": {"unhot.kind": "table"}}
    body = b""
    for key, entry in header.items():
        if key == "__metadata__" or (key == name and value is None):
            continue
        begin, end = entry["data_offsets"]
        array = np.frombuffer(content[begin:end], ours.DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if key == name:
            array = np.asarray(value)
        made[key] = {
            "dtype": ours.NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, start + array.nbytes],
        }  # fmt: skip
        start += array.nbytes
        body += array.tobytes()
    return joined(made, body)


def edited(change: Callable[[Described], object]) -> bytes:
    """Adam's file with a header that `change` has changed."""
    header, content = parts(ADAM)
    change(header)
    return joined(header, content)


def entry(name: str, **given_: Any) -> Callable[[Described], object]:
    return lambda header: header[name].update(given_)


HEADER, CONTENT = parts(ADAM)
TEXT = json.dumps(HEADER).encode()

BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "has 0 bytes"),
    "seven bytes": (ADAM[:7], "has 7 bytes"),
    "no header": (bytes(8), "no JSON object"),
    "a header of 2**64 bytes": (b"\xff" * 8 + ADAM[8:], "a header of 18,446,744,073,709,551,615 bytes is announced"),
    "a header longer than the file": ((len(ADAM)).to_bytes(8, "little") + ADAM[8:], "is announced"),
    "a truncated header": (ADAM[:100], "is announced"),
    "truncated": (ADAM[:-1], "it is truncated"),
    "truncated at the arrays": (ADAM[: -len(CONTENT)], "it is truncated"),
    "too long": (ADAM + b"\0", "it is too long"),
    "another format": (b"PK\x03\x04" + bytes(200), "is announced"),
    "a list": (joined(b"[1, 2]", b""), "no JSON object"),
    "no UTF-8": (joined(TEXT[:-1] + b"\xff}", CONTENT), "not UTF-8"),
    "half of it": (joined(TEXT[:200], CONTENT), "no JSON"),
    "nested": (joined(b'{"a":' * 100_000, b""), "nested too deeply|no JSON"),
    "lists nested": (joined(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""), "nested too deeply|must be described"),
    "NaN": (joined(TEXT.replace(b'"shape": [9, 3]', b'"shape": [NaN, 3]', 1), CONTENT), "NaN is no number"),
    "Infinity": (joined(TEXT.replace(b'"shape": [9, 3]', b'"shape": [Infinity, 3]', 1), CONTENT), "Infinity is no number"),
    "a name twice": (joined(TEXT[:-1] + b"," + TEXT[1:], CONTENT), "occurs twice"),
    "a key twice": (joined(TEXT.replace(b'"dtype"', b'"dtype": "F64", "dtype"', 1), CONTENT), "'dtype' occurs twice"),
    "a number of a million digits": (joined(b'{"a":' + b"9" * 1_000_000 + b"}", b""), "no JSON|must be described"),
    "metadata of numbers": (edited(lambda h: h["__metadata__"].update(a=1)), "__metadata__ must map names to strings"),
    "metadata a list": (edited(lambda h: h.update(__metadata__=[])), "__metadata__ must map names to strings"),
    "an entry a list": (edited(lambda h: h.update(weights=[1])), "'weights' must be described by"),
    "an entry without a dtype": (edited(lambda h: h["weights"].pop("dtype")), "'weights' must be described by"),
    "an entry with more": (edited(entry("weights", also=1)), "'weights' must be described by"),
    "an unknown dtype": (edited(entry("weights", dtype="F33")), "'weights' has an unknown dtype. Received: 'F33'"),
    "a dtype that is a list": (edited(entry("weights", dtype=["F32"])), "unknown dtype"),
    "another dtype": (edited(entry("weights", dtype="F64")), "takes 216 bytes"),
    "integers": (edited(entry("weights", dtype="I32")), r"must have shape \(rows, dim\) and dtype F32 or F64"),
    "bfloat16": (edited(entry("weights", dtype="BF16", shape=[9, 6])), "BF16, which NumPy does not have"),
    "a negative size": (edited(entry("weights", shape=[-9, -3])), "whole numbers"),
    "a huge size": (edited(entry("weights", shape=[2**62, 3])), "takes 55,340,232,221,128,654,848 bytes"),
    "beyond 64 bits": (edited(entry("weights", shape=[2**64, 3])), "whole numbers"),
    "nothing by much": (edited(entry("weights", shape=[0, 2**62])), "takes 0 bytes"),
    "a size that is no whole number": (edited(entry("weights", shape=[9.0, 3])), "whole numbers"),
    "a size that is true": (edited(entry("weights", shape=[True, 27])), "whole numbers"),
    "more dimensions than NumPy has": (edited(entry("weights", shape=[1] * 65 + [9, 3])), "at most 32"),
    "one dimension": (edited(entry("weights", shape=[27])), r"must have shape \(rows, dim\)"),
    "three offsets": (edited(entry("weights", data_offsets=[0, 50, 108])), "two offsets"),
    "offsets the other way": (edited(entry("weights", data_offsets=[108, 0])), "two offsets"),
    "negative offsets": (edited(entry("weights", data_offsets=[-108, 0])), "two offsets"),
    "an overlap": (edited(entry("slot.velocity", data_offsets=HEADER["slot.momentum"]["data_offsets"])), "an overlap"),
    "a hole": (
        edited(lambda h: h["hyper.amsgrad"].update(data_offsets=[n + 1 for n in h["hyper.amsgrad"]["data_offsets"]])),
        "a hole|an overlap",
    ),
    "all beyond the file": (
        edited(lambda h: [e.update(data_offsets=[n + 2**40 for n in e["data_offsets"]]) for e in h.values() if "shape" in e]),
        "a hole",
    ),
    "checksums of another number": (edited(lambda h: h["__metadata__"].update({ours.CHECKSUMS: "0" * 8})), "eight hexadecimal"),
    "checksums that are none": (
        edited(lambda h: h["__metadata__"].update({ours.CHECKSUMS: "x" * len(h["__metadata__"][ours.CHECKSUMS])})),
        "eight hexadecimal",
    ),
    "a damaged array": (ADAM[:-120] + bytes([ADAM[-120] ^ 1]) + ADAM[-119:], "is damaged"),
    "a policy that is none": (
        edited(lambda h: h["__metadata__"].update({"unhot.out_of_range": "-1"})),
        "must be 'raise', 'zero'",
    ),
    "a row that there is not": (edited(lambda h: h["__metadata__"].update({"unhot.out_of_range": "9"})), "9"),
    "a collection": (edited(lambda h: h["__metadata__"].update({"unhot.tables": '["a"]'})), "collection"),
    "names that are none": (edited(lambda h: h["__metadata__"].update({"unhot.tables": "[1]"})), "must be a list of names"),
    "no weights": (replaced(ADAM, "weights", None), "there are no weights in the file. It holds: 'generator', 'form"),
    "no rows": (replaced(ADAM, "weights", np.zeros((0, 3), np.float32)), r"must have shape \(rows, dim\)"),
    "no slot": (replaced(ADAM, "slot.velocity", None), "no 'slot.velocity'"),
    "a slot of other rows": (replaced(ADAM, "slot.velocity", np.zeros((8, 3), np.float32)), r"must have shape \(9, 3\)"),
    "a slot of another dtype": (replaced(ADAM, "slot.velocity", np.zeros((9, 3))), "dtype float32"),
    "no clock": (replaced(ADAM, "clock", None), "no 'clock'"),
    "a negative clock": (replaced(ADAM, "clock", -1), "'clock' must be a whole number"),
    "a clock of strings": (replaced(ADAM, "clock", np.frombuffer(b"ten", np.uint8)), "'clock' must be a number"),
    "a later format": (replaced(ADAM, "format", 99), "has format 99"),
    "no optimizer": (replaced(ADAM, "rule", np.frombuffer(b"Atom", np.uint8)), "no optimizer 'Atom'"),
    "an optimizer in lower case": (replaced(ADAM, "rule", np.frombuffer(b"adam", np.uint8)), "no optimizer 'adam'"),
    "a number for an optimizer": (replaced(ADAM, "rule", 3), "no optimizer 3"),
    "an optimizer that is no UTF-8": (replaced(ADAM, "rule", np.frombuffer(b"\xff\xff", np.uint8)), "uint8 of UTF-8"),
    "another optimizer": (replaced(ADAM, "rule", np.frombuffer(b"RowwiseAdagrad", np.uint8)), "no 'hyper"),
    "no rate": (replaced(ADAM, "hyper.learning_rate", None), "was a callable"),
    "no beta": (replaced(ADAM, "hyper.beta_1", None), "no 'hyper.beta_1'"),
    "a beta of 2": (replaced(ADAM, "hyper.beta_2", 2.0), "`beta_2` must lie in"),
    "a beta that is a string": (
        replaced(ADAM, "hyper.beta_2", np.frombuffer(b"x", np.uint8)),
        "`beta_2` must be a real number",
    ),
    "betas": (replaced(ADAM, "hyper.beta_2", np.zeros(3)), "must be a number, or a string"),
    "a rate that is NaN": (replaced(ADAM, "hyper.learning_rate", np.nan), "`learning_rate` must lie in"),
    "no number of the optimizer": (replaced(NADAM, "state.momentum_product", None), "no 'state.momentum_product'"),
    "a number of the optimizer": (replaced(NADAM, "state.momentum_product", np.nan), "'state.momentum_product' must"),
}


def loaded(data: bytes, path: Path) -> unhot.Table:
    path.write_bytes(data)
    return unhot.load(path)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said(name: str, tmp_path: Path) -> None:
    """A ValueError that begins with the file's name."""
    data, message = BROKEN[name]
    path = tmp_path / "t"
    with pytest.raises(ValueError, match=message) as error:
        loaded(data, path)
    assert str(error.value).startswith(f"'{path}': ")
    assert len(str(error.value)) < 600 + len(str(path))


def test_these_are_changes_of_files_that_load(tmp_path: Path) -> None:
    for data, rule in ((ADAM, "adam"), (NADAM, "nadam")):
        table = trained(rule)
        table.settle()
        for whole in (data, joined(*parts(data)), replaced(data, "clock", table.clock)):
            assert_held(loaded(whole, tmp_path / "t"), held(table))


def test_every_byte_of_the_arrays_counts(tmp_path: Path) -> None:
    """A flipped bit in any of them is found by the checksums."""
    for place in range(len(ADAM) - len(CONTENT), len(ADAM)):
        data = bytearray(ADAM)
        data[place] ^= 1 << place % 8
        with pytest.raises(ValueError, match="is damaged"):
            loaded(bytes(data), tmp_path / "t")


def test_every_length_but_the_right_one(tmp_path: Path, everything: bool) -> None:
    for length in range(0, len(ADAM), 1 if everything else 11):
        with pytest.raises(ValueError, match=r"is announced|truncated|has . bytes"):
            loaded(ADAM[:length], tmp_path / "t")


# ------------------------------------------------------------------ fuzzing

ODD: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([
        None, True, -1, 0, 1, 3, 9, 2**31, 2**32, 2**62, 2**63, 2**64, 10**30, 0.5, 1e308, "", "F32", "F64", "I64", "BF16",
        "U8", "BOOL", "\udcff", [], {}, [0], [9, 3], [3, 9], [0, 0], [0, 108], [108, 108], [2**62, 2**62], [[[]]],
    ]),
    st.integers(-5, 3000),
    st.lists(st.integers(-1, 300), max_size=3),
)  # fmt: skip


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Files whose headers have some values changed, keys removed or added, and entries exchanged."""
    header, content = parts(draw(st.sampled_from([ADAM, NADAM])))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(header)))
        kind = draw(st.sampled_from(["value", "entry", "remove", "rename", "exchange", "size"]))
        if kind == "entry":
            header[name] = draw(ODD)
        elif kind == "remove" and len(header) > 1:
            del header[name]
        elif kind == "rename":
            header[draw(st.sampled_from(["weights", "slot.x", "clock", "hyper.beta_1", "state.rate", "x"]))] = header.pop(name)
        elif kind == "exchange":
            other = draw(st.sampled_from(sorted(header)))
            header[name], header[other] = header[other], header[name]
        elif isinstance(header[name], dict) and header[name]:
            key = draw(st.sampled_from(sorted(header[name])))
            header[name][key] = draw(ODD)
    extra = draw(st.sampled_from([b"", b"", b"\0", bytes(64)]))
    try:
        return joined(header, content + extra)
    except UnicodeEncodeError:
        return joined(b"{}", content)


@st.composite
def bytes_changed(draw: st.DrawFn) -> bytes:
    """Files with bytes flipped, overwritten, removed, added or repeated."""
    data = bytearray(draw(st.sampled_from([ADAM, NADAM])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 1, 2, 8, 30, 500])))
        piece: bytes = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from([b"", b"\xff" * 8, b'"', b"}", b"[", b"9" * 20, b"-1", b"\0", bytes(data[:start])[:50]]),
                st.integers(0, 2**64 - 1).map(lambda n: n.to_bytes(8, "little")),
            )
        )
        data[start:stop] = piece
    return bytes(data)


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.floats(width=64), st.integers(-(2**63), 2**63 - 1), st.booleans(),
    st.binary(max_size=20).map(lambda text: np.frombuffer(text, np.uint8)),
    st.sampled_from([
        np.zeros((9, 3), np.float32), np.zeros((9, 3)), np.zeros((2**16, 1), np.float32), np.zeros((1, 2**16)),
        np.zeros((0, 3)), np.nextafter(1.0, 0.0), 5e-324, 1e-30, 0.999999,
    ]),
)  # fmt: skip


@st.composite
def values_changed(draw: st.DrawFn) -> bytes:
    """Well-formed files in which arrays, hyperparameters or the clock have other values."""
    data = draw(st.sampled_from([ADAM, NADAM]))
    for _ in range(draw(st.integers(1, 2))):
        data = replaced(data, draw(st.sampled_from(sorted(parts(data)[0]))), draw(VALUES))
    return data


def load_or_refuse(data: bytes, path: Path) -> None:
    """A table or a ValueError, without much more memory than the file has bytes.

    What counts is memory in use: with some hyperparameters, a history has room for many steps, of which the system gives none
    before it is used.
    """
    path.write_bytes(data)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    try:
        table: unhot.Table | None = unhot.load(path)
    except ValueError:
        table = None
    assert resident("VmHWM") - before < 40 * len(data) + LEAST
    if table is not None:
        assert table.array.shape == table.shape


LEAST = 24 << 20
"""What any table takes, with the history of its steps and what that computes with."""


def resident(name: str) -> int:
    """The bytes of memory in use by this process, now (VmRSS) or at the most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory cannot be measured")
@pytest.mark.parametrize("kind", [headers, bytes_changed, values_changed], ids=lambda kind: kind.__name__)
def test_fuzzed(kind: Callable[[], st.SearchStrategy[bytes]], tmp_path: Path, everything: bool) -> None:
    """Each of many files that have been changed at random is read or refused."""

    @settings(max_examples=5000 if everything else 150)
    @given(kind())
    def check(data: bytes) -> None:
        load_or_refuse(data, tmp_path / "t")

    check()


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    """The header was true once: an error, and no crash."""
    path = tmp_path / "t"
    path.write_bytes(ADAM)
    with open(path, "rb") as file:
        state = ours.Arrays(file, ours.read_header(file, len(ADAM)))
        files.replace(path, lambda new: new.write(b"x") and None)
        assert state["weights"].shape == (9, 3)  # the old file lives as long as it is open
    path.write_bytes(ADAM)
    with open(path, "rb", buffering=0) as raw, io.BufferedReader(raw, 16) as file:
        state = ours.Arrays(file, ours.read_header(file, len(ADAM)))
        path.write_bytes(ADAM[:-200])
        with pytest.raises(ValueError, match="the file became shorter"):
            dict(state)
