"""Files that are replaced as a whole: whoever opens one finds what was there before or what is there after, after a crash."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

if sys.platform == "win32":
    fcntl = None
else:
    import fcntl

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""What users may give as the name of a file; `as_path` makes a str of it."""

ENDING = ".unhot-part"
"""Of the names of files that are being written."""


def as_path(path: object, name: str = "path") -> str:
    """The name of a file, which the argument `name` was to give.

    Raises: TypeError for what is no such name. Integers are none, though `open` would take them for open files.

    Example:
        >>> import pathlib
        >>> as_path(pathlib.PurePosixPath("words.vec")), as_path(b"words.vec")
        ('words.vec', 'words.vec')
    """
    if isinstance(path, (str, bytes, os.PathLike)):
        return os.fsdecode(path)
    opened = hasattr(path, "read") or hasattr(path, "write")
    advice = " unhot opens files itself: pass the file's name instead of an open file." if opened else ""
    shown = " ".join(repr(path).split())  # in one line
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise TypeError(
        f"`{name}` must be the name of a file: a str, bytes, or an os.PathLike such as pathlib.Path. Received:"
        f" {shown} ({type(path).__name__}).{advice}"
    )


def replace(path: Path, write: Callable[[BinaryIO], None], name: str = "") -> None:
    """Write a file with `write`, and put it in the place of `path` once it is on the disk.

    The file at `path`, if there is one, stays as it is until then, and for good if anything fails. A process that is killed
    leaves a file beside it whose name ends with `ENDING`; the next call removes it.

    Args:
        path: where the file is to be. A symbolic link stays, and the file that it leads to is replaced.
        write: what writes the content to a binary file, which can be read and is sought in freely.
        name: what an error calls the file; by default `path`.

    Raises: OSError if it cannot be written, for example because the disk is full; ValueError if there is something at `path`
        that is no file; TypeError as of `as_path`.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "numbers.bin")
        >>> replace(path, lambda file: None if file.write(bytes(3)) else None)
        >>> os.path.getsize(path)
        3
    """
    target = os.path.realpath(as_path(path))
    folder, own = os.path.split(target)
    before = os.stat(target) if os.path.lexists(target) else None
    if before is not None and not stat.S_ISREG(before.st_mode):
        raise ValueError(f"{name or target} exists and is no file; give the name of a file.")
    try:
        remove_left_behind(folder, own)
        _write(folder, own, before, write)
        _sync_folder(folder)
    except OSError as error:
        kept = "" if before is None else " The file that was there is unchanged."
        problem = f"{error.strerror or error}: writing {name or target} failed.{kept}"
        raise OSError(error.errno, problem) from error


def _write(folder: str, own: str, before: os.stat_result | None, write: Callable[[BinaryIO], None]) -> None:
    """Write the new file under a name of its own, and rename it."""
    temporary = os.path.join(folder, f".{own}.{secrets.token_hex(4)}{ENDING}")
    try:
        with open(temporary, "x+b") as file:
            locked(file.fileno())  # says that its process is alive
            if before is not None and hasattr(os, "fchmod"):
                with suppress(PermissionError):
                    os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            write(file)
            file.flush()
            sync(file.fileno())
            if fcntl is not None:
                os.replace(temporary, os.path.join(folder, own))
        if fcntl is None:  # Windows does not rename an open file
            os.replace(temporary, os.path.join(folder, own))
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def sync(descriptor: int) -> None:
    """Wait until the file is on the disk."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS, where fsync leaves it in the disk's own cache
        with suppress(OSError):  # of file systems that do not know it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def locked(descriptor: int, *, shared: bool = False) -> bool:
    """Take the file, until it is closed, for this process or to be `shared`; whether no other has it.

    Systems and file systems without such locks say that none has.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system that has none
        return True
    return True


def unlock(descriptor: int) -> None:
    """Give the file back, also if a mapping still holds it open."""
    if fcntl is not None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def remove_left_behind(folder: str, own: str) -> None:
    """Remove what processes that were killed have left in the folder of writing the file `own`; those that live hold locks."""
    if fcntl is None:
        return
    for name in os.listdir(folder):
        if not (name.startswith(f".{own}.") and name.endswith(ENDING)):
            continue
        with suppress(OSError), open(os.path.join(folder, name), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(os.path.join(folder, name))


def _sync_folder(folder: str) -> None:
    """Wait until the new name is on the disk."""
    if fcntl is None:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
