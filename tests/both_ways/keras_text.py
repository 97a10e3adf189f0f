"""Tell which library a docstring is from by the sequence of its words: padded ids, and a mask that leaves the padding out.

Choose the backend by KERAS_BACKEND.  On TensorFlow the losses differ slightly: there Keras's own Embedding is trained otherwise
than on other backends (keras_repeated_ids.py).
"""

from __future__ import annotations

import argparse
import inspect
import re
import zlib
from typing import Any

import keras
import numpy as np
from keras_both_ways import compare

LIBRARIES = (np, np.linalg, np.random, keras.ops, keras.layers, keras.optimizers, keras.losses)
LENGTH = 64


def model_of(names: Any, rows: int) -> keras.Model:
    """Words to vectors, a hidden layer on each, the mean over the words that are there, and a score."""
    ids = keras.Input((LENGTH,), dtype="int32")
    words = names.Embedding(rows, 32, mask_zero=True)(ids)
    hidden = keras.layers.Dense(32, activation="relu")(words)
    return keras.Model(ids, keras.layers.Dense(1, activation="sigmoid")(keras.layers.GlobalAveragePooling1D()(hidden)))


def paragraphs() -> list[tuple[list[str], int]]:
    """The words of each paragraph in the docstrings of all public names, with whether it is Keras's."""
    found = []
    for library in LIBRARIES:
        for name in dir(library):
            text = "" if name.startswith("_") else inspect.getdoc(getattr(library, name)) or ""
            parts = [re.findall(r"[a-z]+", part.lower()) for part in text.split("\n\n")]
            found += [(words, int("keras" in library.__name__)) for words in parts if len(words) > 8]
    return found


def main(samples: int, rows: int, epochs: int) -> Any:
    """Train on so many paragraphs, and evaluate on the others."""
    known = paragraphs()
    known = [known[i] for i in np.random.default_rng(0).permutation(len(known))]
    ids = keras.utils.pad_sequences([[1 + zlib.crc32(w.encode()) % (rows - 1) for w in words] for words, _ in known], LENGTH)
    labels = np.array([[label] for _, label in known], dtype="float32")
    print(f"{len(known):,} paragraphs, {rows:,} rows")
    data, held_out = (ids[:samples], labels[:samples]), (ids[samples:], labels[samples:])
    return compare(lambda names: model_of(names, rows), data, held_out, epochs, "binary_crossentropy", "accuracy")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--rows", type=int, default=1 << 18)
    parser.add_argument("--epochs", type=int, default=5)
    main(**vars(parser.parse_args()))
