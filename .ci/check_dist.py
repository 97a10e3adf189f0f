"""What is in the archives of a folder: `python .ci/check_dist.py dist`, from the top of the repository."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path


def in_repository(folder: str) -> set[str]:
    """The files under version control, from `folder` on."""
    listed = subprocess.run(["git", "ls-files", folder], capture_output=True, check=True, text=True).stdout
    return set(listed.splitlines())


def check_metadata(name: str, metadata: bytes) -> None:
    """Its version is the file's, and its README's links work on a package index."""
    found = message_from_bytes(metadata)
    assert name.startswith(f"unhot-{found['Version']}"), (name, found["Version"])
    readme = str(found.get_payload())
    assert len(readme) > 1000, f"{name}: no README"
    relative = re.findall(r"""(?:\]\(|\b(?:src|href)=")(?!https://|#)[^)"]*""", readme)
    assert not relative, f"{name}: the README has relative links: {relative}"


def check_wheel(path: Path) -> None:
    """The package as it is in the repository, with the native module if it is for one platform, and the licence."""
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        check_metadata(path.name, archive.read(f"{info}/METADATA"))
        for name in in_repository("src"):
            assert archive.read(name.removeprefix("src/")) == Path(name).read_bytes(), f"{path.name}: {name} is another one"
    package = {f"src/{name}" for name in names if name.startswith("unhot/")}
    native = {name for name in package if re.fullmatch(r"src/unhot/_native\..*so", name)}
    assert len(native) == (not path.name.endswith("-any.whl")), f"{path.name}: native modules {native}"
    assert package - native == in_repository("src"), (path.name, (package - native) ^ in_repository("src"))
    assert f"{info}/licenses/LICENSE" in names
    tops = {name.partition("/")[0] for name in names}
    assert tops <= {"unhot", "unhot.libs", info}, tops


def check_sdist(path: Path) -> None:
    """All that it takes to build the package."""
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2]: name for name in archive.getnames()}
        metadata = archive.extractfile(names["PKG-INFO"])
        assert metadata
        check_metadata(path.name, metadata.read())
    wanted = in_repository("src") | in_repository("native") | {"pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"}
    assert wanted <= set(names), (path.name, wanted - set(names))


if __name__ == "__main__":
    archives = sorted(Path(sys.argv[1]).glob("unhot-*"))
    assert archives, "there are no archives"
    for archive in archives:
        (check_wheel if archive.suffix == ".whl" else check_sdist)(archive)
        print(f"{archive.name}: as it should be")
