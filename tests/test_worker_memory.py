"""Peak memory of a worker's task, measured in a process of its own, against what the plan says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("peak memory is asked of Linux", allow_module_level=True)

MIB = 1 << 20

_TASK = """
import sys
from pathlib import Path
from tinc_codec import Settings, runtime
from tinc_codec.archive import plan
from tinc_codec.archive.memory import _PROCESS
from tinc_codec.archive.work import Job, convert_task

folder, options = Path(sys.argv[1]), eval(sys.argv[2])
settings = Settings(**options.pop("settings"))
(folder / "scratch").mkdir()

def peak_of_a_task(chunk):
    made = plan(folder / "s.npy", folder / f"{chunk[0]}.zarr", settings, chunks=chunk, shards=chunk,
                **options)
    (folder / f"{chunk[0]}.zarr.partial").mkdir()
    with runtime(threads=1):
        convert_task(Job(plan=made, scratch=str(folder / "scratch")), 0)
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1]), made.bytes_per_worker

before, _ = peak_of_a_task((16, 16, 16))
after, promised = peak_of_a_task((64, 128, 128))
print(before, after - before, promised - _PROCESS, _PROCESS)
"""


@pytest.mark.parametrize(
    "options",
    [
        {"settings": {"ratio": 50, "effort": 1, "form": "wavelet"}},
        {"settings": {"max_error": 3}},
        {"settings": {}, "labels": True, "mask": True},
    ],
)
def test_a_workers_task_takes_what_the_plan_says(tmp_path: Path, options: dict[str, Any]) -> None:
    """A chunk of a million voxels; what a small one has taken before is the process's own."""
    line = np.arange(128, dtype=np.float32)
    wave = np.sin(line[:64, None, None] / 7) + np.cos(line[:, None] / 5) * np.sin(line / 9)
    np.save(tmp_path / "s.npy", (1000 * wave + 3000).astype(np.uint16))
    given = dict(options)
    if options.get("mask"):
        np.save(tmp_path / "m.npy", np.ones((64, 128, 128), bool))
        given["mask"] = str(tmp_path / "m.npy")
    done = subprocess.run(
        [sys.executable, "-c", _TASK, str(tmp_path), repr(given)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    process, taken, promised, promised_process = map(int, done.stdout.split())
    assert process <= promised_process
    assert taken <= promised, f"{taken / MIB:.0f} MiB, where the plan says {promised / MIB:.0f}"
    assert taken > promised / 8, "the plan asks for far too much"
