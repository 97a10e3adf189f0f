"""The error where a package is missing that only a part of unhot needs; it names the extra to install."""

from __future__ import annotations

BACKENDS = ("tensorflow", "torch", "jax")


def missing(part: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The error to raise in place of `error`, which an import for `part` of unhot met: it names the extra to install.

    Example:
        >>> from unhot.extras import missing
        >>> str(missing("unhot.torch", "torch", ModuleNotFoundError("No module named 'torch'", name="torch")))
        'unhot.torch needs torch, which is not installed: pip install "unhot[torch]"'
    """
    package = (error.name or "").partition(".")[0]
    if extra == "keras" and package in BACKENDS:
        text = (
            f"{part} needs a backend for Keras. {package}, which Keras was to run on, is not installed: install it, or set the"
            f" environment variable KERAS_BACKEND to another of {', '.join(BACKENDS)}."
        )
    else:
        text = f'{part} needs {package}, which is not installed: pip install "unhot[{extra}]"'
    return ModuleNotFoundError(text, name=error.name, path=error.path)
