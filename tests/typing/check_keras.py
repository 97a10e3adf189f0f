"""What a type checker is to see of `unhot.keras`.  This is not run; mypy and Pyright report nothing here."""

from typing import assert_type

import unhot.keras

layer = unhot.keras.Embedding(10, 4, mask_zero=True)
assert_type(layer, unhot.keras.Embedding)
assert_type(unhot.keras.Adam(1e-3), unhot.keras.Adam)

# The checker reports this error: where it does not, it complains of an `ignore` for nothing.
unhot.keras.Rprop(1e-3)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
