"""What is in a file of a table or of vectors, without reading more of it than it takes to say so."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import NamedTuple

from unhot.formats.base import Options, Wording
from unhot.formats.registry import format_of
from unhot.formats.registry import opened as opened_vectors
from unhot.optimizers import OPTIMIZERS
from unhot.state import decoded
from unhot.storage.files import Path, as_path
from unhot.storage.safetensors import CHECKSUMS, Arrays, Header
from unhot.storage.tables import MARK, NOT_WHOLE, names_of, opened, policy_of

IN_PYTHON = Wording("format_")


class ArrayFacts(NamedTuple):
    """An array of a file: its name, dtype, shape, and bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int


class Described(NamedTuple):
    """What is in a file: facts by name, and the arrays of a safetensors file."""

    facts: dict[str, str]
    arrays: list[ArrayFacts]


def describe(path: Path, format_: str | None = None, dim: int | None = None, wording: Wording = IN_PYTHON) -> Described:
    """What is in a file.

    Args:
        path, format_, dim: as for `unhot.read_vectors`.
        wording: what errors call these.

    Raises: as for `unhot.read_vectors`, as far as the file is read.

    Example:
        >>> import os, tempfile, unhot
        >>> path = os.path.join(tempfile.mkdtemp(), "words.safetensors")
        >>> unhot.Table(1000, 4, optimizer=unhot.SGD(0.1)).save(path)
        >>> describe(path).facts["optimizer"]
        "SGD(learning_rate=0.1, weight_decay=0.0, momentum=0.0, nesterov=False, dampening=0.0, convention='keras')"
    """
    file = as_path(path)
    options = Options.checked(dim=dim, wording=wording)
    name = format_of(file, format_, wording, reading=True)
    facts = {"format": name, "bytes": f"{os.stat(file).st_size:,}"}
    if name == "safetensors":
        with opened(file) as (state, header):
            arrays = [
                ArrayFacts(named, entry.dtype, entry.shape, entry.stop - entry.start) for named, entry in header.entries.items()
            ]
            return Described(facts | _table(state, header), arrays)
    with opened_vectors(file, format_, options) as (head, _):
        facts |= {
            "rows": "as many as lines" if head.rows is None else f"{head.rows:,}",
            "dim": f"{head.dim:,}",
            "dtype": "as asked for, by default float32" if _of_text(name) else head.dtype.name,
            "keys": {"text": "texts", "bytes": "bytes"}.get(head.kind, "integers"),
        }
    return Described(facts, [])


def _of_text(name: str) -> bool:
    return name in ("word2vec", "glove", "fasttext", "projector")


def _table(state: Arrays, header: Header) -> dict[str, str]:
    """What a table's file says of it."""
    names = names_of(header)
    facts = {}
    if names is not None:
        facts["tables"] = ", ".join(f"{name} {_shape(header, f'{name}.weights')}" for name in names)
    elif "weights" in header.entries:
        facts["table"] = _shape(header, "weights")
    if {"vocabulary.kind", "vocabulary.keys"} <= state.keys():
        kind = decoded(state, "vocabulary.kind")
        facts["keys"] = {"str": "texts", "int": "integers", "": "none"}.get(kind, str(kind))
    if "rule" in state:
        facts["optimizer"] = _optimizer(state)
    if "clock" in state:
        facts["steps"] = f"{decoded(state, 'clock'):,}"
    facts["ids out of range"] = str(policy_of(header))
    sums = header.metadata.get(CHECKSUMS, "").strip("-")
    facts["checksums"] = "of every array" if sums else "none"
    if header.metadata.get(MARK) == NOT_WHOLE.decode():
        facts["whole"] = "no: the table was trained in this file, and the process ended before flush() or close()"
    return facts


def _shape(header: Header, name: str) -> str:
    if name not in header.entries:
        return "(without weights)"
    entry = header.entries[name]
    rows_of = " x ".join(f"{size:,}" for size in entry.shape)
    return f"{rows_of}, {entry.dtype}" if math.prod(entry.shape) else f"{rows_of} (empty)"


def _optimizer(state: Arrays) -> str:
    """The optimizer with its hyperparameters, as its repr shows it."""
    rule = str(decoded(state, "rule"))
    kind = OPTIMIZERS.get(rule.lower())
    fields = [] if kind is None else [field.name for field in dataclasses.fields(kind)]
    named = [f"{name}={decoded(state, f'hyper.{name}')!r}" for name in fields if f"hyper.{name}" in state]
    if "hyper.learning_rate" not in state:
        named.insert(0, "learning_rate=<a callable>")
    return f"{rule}({', '.join(named)})"
