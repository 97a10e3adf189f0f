"""Files of vectors and of tables: GloVe's text beside gensim, and how long a mapped file takes to open; and what it is to be.

    python benchmarks/vectors.py [--rows 100000] [--gigabytes 10] [--json FILE]

It needs gensim (`pip install gensim`) beside unhot. The readers take turns, and the vectors must agree to the last bit. Exits
with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from gensim.models import KeyedVectors

import unhot

FASTER = 5.0
"""How many times faster than gensim GloVe's text is to be read."""

MILLISECONDS = 10.0
"""In which a file of any size is to be opened."""

ROUNDS = 5


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it takes, and what it returns."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def write_glove(path: Path, rows: int, dim: int) -> None:
    """A text like GloVe's: numbers with up to five decimals."""
    generator = np.random.default_rng(0)
    with open(path, "w") as file:
        for start in range(0, rows, 1000):
            for row, line in enumerate(generator.normal(size=(min(1000, rows - start), dim)) * 0.4, start=start):
                file.write(f"key{row} {' '.join(f'{x:.5g}' for x in line)}\n")


def glove(folder: Path, rows: int, dim: int) -> dict[str, float]:
    """The median times of both readers, and of the ratios in each round."""
    path = folder / "glove.txt"
    write_glove(path, rows, dim)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        own, (keys, vectors) = seconds(lambda: unhot.read_vectors(path))
        other, expected = seconds(lambda: KeyedVectors.load_word2vec_format(str(path), no_header=True))
        if keys != expected.index_to_key or vectors.tobytes() != expected.vectors.tobytes():
            sys.exit("the vectors are not those that gensim reads")
        ours.append(own)
        theirs.append(other)
    size = path.stat().st_size
    path.unlink()
    ratio = median(other / own for own, other in zip(ours, theirs, strict=True))
    return {"rows": rows, "dim": dim, "bytes": size, "unhot": median(ours), "gensim": median(theirs), "ratio": ratio}


def opening(folder: Path, gigabytes: float) -> dict[str, float]:
    """The median time to open a mapped file of so many gigabytes, and that of a small one."""
    small, large = folder / "small.safetensors", folder / "large.safetensors"
    unhot.Table(1000, 64, seed=0).save(small)
    write_large(small, large, int(gigabytes * 1e9) // 256)
    found = {"bytes": float(large.stat().st_size)}
    for name, path in (("small", small), ("large", large)):
        times = []
        for _ in range(21):
            took, table = seconds(lambda path=path: unhot.load(path, mmap=True))  # type: ignore[misc]
            times.append(1e3 * took)
            table.lookup([0, table.rows - 1])
            table.close()
        found[f"{name}_ms"] = median(times)
    return found


def write_large(small: Path, large: Path, rows: int) -> None:
    """A file like the small one, with more rows, which take no space on the disk: holes, which read as zeros."""
    data = small.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header["__metadata__"]["unhot.crc32"] = ""
    more = 256 * rows - header["weights"]["data_offsets"][1]
    header["weights"]["shape"][0] = rows
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            entry["data_offsets"] = [first if name == "weights" else first + more, last + more]
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)
    with open(large, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(8 + len(text) + 256 * rows)
        file.write(data[-16:])  # format and clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"unhot {unhot.__version__}, kernels: {unhot.kernels.name}, {os.cpu_count()} processors")
    missed = False
    found: dict[str, Any] = {"kernels": unhot.kernels.name}
    with tempfile.TemporaryDirectory() as folder:
        for dim in (50, 300):
            text = found[f"glove.{dim}"] = glove(Path(folder), arguments.rows, dim)
            good = text["ratio"] >= FASTER
            missed |= not good
            print(
                f"GloVe's text, {arguments.rows:,} x {dim}, {text['bytes'] / 1e6:.0f} MB: {text['unhot']:.2f} s, gensim"
                f" {text['gensim']:.2f} s: {text['ratio']:.1f} times faster ({'at least' if good else 'MISSED:'} {FASTER:g})"
            )
        opened = found["opening"] = opening(Path(folder), arguments.gigabytes)
        good = opened["large_ms"] <= MILLISECONDS
        missed |= not good
        print(
            f"a mapped file of {opened['bytes'] / 1e9:.1f} GB opens in {opened['large_ms']:.2f} ms"
            f" ({'at most' if good else 'MISSED:'} {MILLISECONDS:g}), one of 256 KB in {opened['small_ms']:.2f} ms"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(missed)


if __name__ == "__main__":
    main()
