"""Fixtures and markers of the whole suite."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

# No test is timed: machines are shared, and the first example may wait for a kernel.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

_BESIDE_THE_REPOSITORY = Path(__file__).parents[2] / "shared" / "data"


def _data_directory() -> Path | None:
    named = os.environ.get("TINC_DATA")
    folder = Path(named) if named else _BESIDE_THE_REPOSITORY
    return folder if any(folder.glob("*.npy")) else None


@pytest.fixture(scope="session")
def tinc_data() -> Path:
    """Folder of the real volumes (.npy); skips the test when there is none."""
    folder = _data_directory()
    if folder is None:
        pytest.skip("no real volumes: set TINC_DATA to a folder of .npy files")
    return folder


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    """Where an archive may be made."""
    return tmp_path / "a.zarr"


@pytest.fixture(scope="module")
def torch() -> Iterator[ModuleType]:
    """Torch on one thread: sums depend on how they are shared out, and its pool is slow here."""
    module = pytest.importorskip("torch", reason="torch is not installed")
    threads = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(threads)


def _why_no_gpu() -> str | None:
    try:
        import torch
    except ImportError:
        return "needs a GPU: torch is not installed"
    return None if torch.cuda.is_available() else "needs a GPU: torch finds no CUDA device"


def pytest_configure() -> None:
    # A shell's background jobs ignore interrupts, and so would the processes that tests interrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = _why_no_gpu() if marked else None
    if reason:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))
