"""What memory is found to be left, on a machine and in containers, as the files of Linux say."""

from __future__ import annotations

from pathlib import Path

import pytest

import unhot
from unhot import memory

GIB = 1 << 30


def system(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MACHINE = {"proc/meminfo": f"MemTotal: {9 * GIB // 1024} kB\nMemAvailable: {8 * GIB // 1024} kB\n"}

VERSION_2 = {
    "proc/self/cgroup": "0::/user.slice/job\n",
    "sys/fs/cgroup/user.slice/memory.max": f"{3 * GIB}\n",
    "sys/fs/cgroup/user.slice/memory.current": f"{2 * GIB}\n",
    "sys/fs/cgroup/user.slice/memory.stat": f"anon 1\ninactive_file {GIB // 2}\n",
    "sys/fs/cgroup/user.slice/job/memory.max": "max\n",
    "sys/fs/cgroup/user.slice/job/memory.current": f"{GIB}\n",
}

VERSION_1 = {
    "proc/self/cgroup": "7:cpu,cpuacct:/docker/4f\n4:memory:/docker/4f\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{4 * GIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
}


@pytest.mark.parametrize(("files", "free"), [
    (MACHINE, 8 * GIB),
    ({**MACHINE, **VERSION_2}, 3 * GIB // 2),
    ({**MACHINE, **VERSION_1}, 3 * GIB),
    ({**VERSION_2, "sys/fs/cgroup/user.slice/memory.current": f"{9 * GIB}\n"}, 0),
    ({**MACHINE, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 8 * GIB),
])  # fmt: skip
def test_the_tightest_limit_counts(files: dict[str, str], free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system(tmp_path, files)
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    assert memory.available() == free


def test_a_table_that_the_container_has_no_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system(tmp_path, {**MACHINE, **VERSION_2})
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    with pytest.raises(MemoryError, match=r"needs 1\.9 GiB; 1\.5 GiB of memory are available"):
        unhot.Table(4_000_000, 128)
