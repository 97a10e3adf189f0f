"""The native map from keys to rows."""

from unhot.keys.reference import KeyMap, pack

__all__ = ["KeyMap", "pack"]
