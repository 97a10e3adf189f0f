"""benchmarks/gpu.py on the CPU: few who run the tests have a GPU, and a script that nobody runs is broken when it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unhot.torch.placement import KERNELS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_all_parts_run_on_the_cpu(tmp_path: Path) -> None:
    """As a user starts it, at sizes that take a few seconds: most of them go into importing PyTorch in the second process."""
    script = [sys.executable, str(BENCHMARKS / "gpu.py")]
    sizes = ["--cases", "2", "--rows", "900", "300", "--ids", "64", "--rounds", "2"]
    ran = subprocess.run(
        [*script, "--device", "cpu", "--output", str(tmp_path), *sizes], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (path,) = tmp_path.iterdir()
    assert path.name == "gpu-on-cpu.json"
    told = json.loads(path.read_text())
    assert told["machine"]["device"] == "cpu"
    assert told["machine"]["versions"]["torch"] == torch.__version__

    conformance = told["conformance"]
    assert [case["optimizer"] for case in conformance["cases"]] == ["SGD", "SGD"]
    assert len(conformance["not_run"]) > 80
    for case in conformance["cases"]:
        assert case["agrees"]
        for dtype in ("float32", "float64"):
            assert 0 < case[dtype]["distance"] <= case[dtype]["allowed"]

    counted = told["waits"]["rivals"]
    assert counted.keys() == {"unhot", "dense", "sparse"}
    assert counted["unhot"]["operators"] > counted["dense"]["operators"] > 0
    assert counted["unhot"]["waiting operators"] > 0
    parts = counted["unhot"]["parts"]
    assert parts.keys() == {"lookup", "backward", "step"}
    assert sum(part["operators"] for part in parts.values()) == pytest.approx(counted["unhot"]["operators"])

    assert [size["rows"] for size in told["times"]["sizes"]] == [300, 900]
    for size in told["times"]["sizes"]:
        assert size["largest_difference"] < 1e-5
        assert size["rivals"].keys() == {"unhot", "dense", "sparse"}
        for found in size["rivals"].values():
            assert len(found["medians"]) == 2
            assert min(found["medians"]) <= found["milliseconds"] <= max(found["medians"])
            assert found["check"]["rows_touched"] > 0

    shown = subprocess.run([*script, "--show", str(path)], capture_output=True, text=True, check=True).stdout
    assert "| SGD | 2 of 2 |" in shown
    assert "| | 300 rows | 900 rows |" in shown
    assert [line for line in shown.splitlines() if line not in ran.stdout.splitlines()] == []


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of the script, forgotten afterwards: their names are common ones."""
    monkeypatch.setenv(KERNELS, "torch")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before, threads = set(sys.modules), torch.get_num_threads()
    from on_gpu import conformance, record, tables, times, waits

    torch.set_num_threads(1)  # as the script does on the CPU
    yield SimpleNamespace(conformance=conformance, record=record, tables=tables, times=times, waits=waits)
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


def test_tables_that_do_not_fit_together(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made anew for each turn, and those that do not even fit alone are left out."""
    rows = 500
    monkeypatch.setattr(parts.times, "memory_free", lambda device: parts.times.bytes_needed("unhot", rows))
    record = parts.record.Record(tmp_path / "times.json")
    assert parts.times.run(record, "cpu", parts.record.Budget(60), [rows], ids=32, rounds=2, steps=3)
    (size,) = json.loads(record.path.read_text())["times"]["sizes"]
    assert not size["made_once"]
    assert "needs" in size["rivals"]["dense"]["not_run"]
    for name in ("sparse", "unhot"):
        assert len(size["rivals"][name]["medians"]) == 2
        assert size["rivals"][name]["check"]["steps_replayed"] == size["rivals"][name]["warm_steps"] + 5 + 3
    assert size["rivals"]["unhot"]["settle_all_milliseconds"] > 0


def test_wrong_results_and_errors_are_told(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They fail the run, and what else was measured is there."""
    record = parts.record.Record(tmp_path / "gpu.json")
    monkeypatch.setattr(parts.times.replay, "EPSILON", {**parts.times.replay.EPSILON, "adam_masked": 1.0})
    assert not parts.times.run(record, "cpu", parts.record.Budget(60), [300], ids=32, rounds=1, steps=3)
    (size,) = record.data["times"]["sizes"]
    assert "float64 replay of adam_masked" in size["rivals"]["sparse"]["error"]
    assert size["rivals"]["unhot"]["milliseconds"] > 0

    monkeypatch.setattr(parts.conformance.training, "RELATIVE", 0.0)
    assert not parts.conformance.run(record, "cpu", parts.record.Budget(60), most=1)
    (case,) = record.data["conformance"]["cases"]
    assert "the float64 table is" in case["error"]


def test_what_there_is_no_time_for_is_told(parts: Any, tmp_path: Path) -> None:
    record, over = parts.record.Record(tmp_path / "gpu.json"), parts.record.Budget(-1)
    assert parts.times.run(record, "cpu", over, [300], ids=32, rounds=1, steps=3)
    assert parts.conformance.run(record, "cpu", over, most=None)
    assert record.data["times"]["sizes"] == [{"rows": 300, "rivals": {}, "not_run": "the time was over"}]
    assert len(record.data["conformance"]["not_run"]) > 80
    assert "300 rows: the time was over" in parts.tables.times(record.data["times"])
    assert "cases were not run" in parts.tables.conformance(record.data["conformance"])


def test_what_cuda_does_is_counted_by_part(parts: Any) -> None:
    """Events as torch's profiler gives them on a GPU."""

    def event(name: str, start: float, end: float, device: str = "DeviceType.CPU", parent: Any = None) -> Any:
        spent = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
        return SimpleNamespace(name=name, time_range=spent, device_type=device, cpu_parent=parent)

    marks = [
        event(parts.waits.PREFIX + part, 100.0 * i, 100.0 * i + 90) for i, part in enumerate(("lookup", "backward", "step"))
    ]
    index = event("aten::index", 10, 20)
    events = [
        *marks,
        event(marks[0].name, 12, 95, "DeviceType.CUDA"),
        index,
        event("aten::index_select", 11, 19, parent=index),
        event("cudaLaunchKernel", 12, 13),
        event("cudaLaunchKernelExC", 110, 111),
        event("cudaMemcpyAsync", 210, 211),
        event("cudaStreamSynchronize", 212, 213),
        event("cudaDeviceSynchronize", 395, 396),  # after the step
        event("some_kernel", 20, 520, "DeviceType.CUDA"),
        event("Memcpy DtoH (Device -> Pageable)", 520, 1020, "DeviceType.CUDA"),
    ]
    found = parts.waits.counted(events, 2, "cuda")
    assert (found["waits"], found["launches"], found["operators"]) == (0.5, 1.0, 0.5)
    assert [found["parts"][part]["launches"] for part in ("lookup", "backward", "step")] == [0.5, 0.5, 0.0]
    assert found["parts"]["step"]["waits"] == 0.5
    assert found["on_device"] == {"kernels": 0.5, "Memcpy DtoH": 0.5}
    assert found["device_busy_milliseconds"] == pytest.approx(0.5)
    assert found["runtime_calls"]["cudaMemcpyAsync"] == 0.5
    place = parts.waits.line_of(SimpleNamespace(filename=str(Path(torch.__file__).parent / "optim" / "adam.py"), lineno=7))
    assert place == "torch/optim/adam.py:7"
