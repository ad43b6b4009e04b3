"""runtime: argument before environment before default; nothing leaks out of the context."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

from tinc_codec import InvalidSetting, runtime
from tinc_codec.engines import current_engine
from tinc_codec.runtime import MAX_THREADS, Runtime, current_runtime


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINC_DEVICE", raising=False)
    monkeypatch.delenv("TINC_THREADS", raising=False)


def test_default() -> None:
    assert current_runtime() == Runtime(device="auto", threads=0)
    assert current_runtime().thread_count() >= 1


def test_all_threads_are_those_the_process_may_use() -> None:
    if hasattr(os, "sched_getaffinity"):
        assert Runtime().thread_count() == len(os.sched_getaffinity(0))
    assert Runtime(threads=3).thread_count() == 3


def test_environment_then_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINC_DEVICE", "reference")
    monkeypatch.setenv("TINC_THREADS", "3")
    assert current_runtime() == Runtime(device="reference", threads=3)
    with runtime(device="cpu") as outer:
        assert outer == current_runtime() == Runtime(device="cpu", threads=3)
        with runtime(threads=1):
            assert current_runtime() == Runtime(device="cpu", threads=1)
        assert current_runtime() == outer
    assert current_runtime() == Runtime(device="reference", threads=3)


def test_an_error_inside_restores_too() -> None:
    with pytest.raises(KeyError), runtime(threads=2):
        raise KeyError
    assert current_runtime() == Runtime()


@pytest.mark.parametrize(
    "device", ["auto", "cpu", "reference", "torch", "cuda", "cuda:0", "cuda:12"]
)
def test_devices(device: str) -> None:
    assert Runtime(device=device).device == device


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:x", "cuda:-1", "CPU"])
def test_unknown_devices_name_the_known(device: str) -> None:
    with pytest.raises(InvalidSetting, match=r"reference.*cuda:N"), runtime(device=device):
        pass


@pytest.mark.parametrize("threads", [-1, MAX_THREADS + 1])
def test_threads_are_bounded(threads: int) -> None:
    with (
        pytest.raises(InvalidSetting, match=f"threads={threads}.*{MAX_THREADS}"),
        runtime(threads=threads),
    ):
        pass


@pytest.mark.parametrize("value", ["many", "-1", "1.5", " "])
def test_a_wrong_environment_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TINC_THREADS", value)
    with pytest.raises(InvalidSetting, match="TINC_THREADS"):
        current_runtime()


def test_a_wrong_device_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINC_DEVICE", "tpu")
    with pytest.raises(InvalidSetting, match="TINC_DEVICE"):
        current_runtime()


def test_other_threads_keep_their_own() -> None:
    seen = []
    with runtime(threads=7):
        thread = threading.Thread(target=lambda: seen.append(current_runtime().threads))
        thread.start()
        thread.join()
    assert seen == [0]


def test_worker_threads_of_asyncio_inherit() -> None:
    # That is how zarr 3 runs codecs.
    async def ask() -> int:
        with runtime(threads=7):
            return (await asyncio.to_thread(current_runtime)).threads

    assert asyncio.run(ask()) == 7


@pytest.mark.parametrize(
    ("device", "module"),
    [("auto", "cpu.engine"), ("cpu", "cpu.engine"), ("reference", "reference")],
)
def test_device_names_an_engine(device: str, module: str) -> None:
    with runtime(device=device):
        assert current_engine().__name__ == f"tinc_codec.engines.{module}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", [{"device": 3}, {"device": "cuda:²"}, {"threads": 1.5}])
def test_wrong_kinds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidSetting, match="must be"):
        Runtime(**wrong)


def test_threads_in_the_environment_are_plain_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINC_THREADS", "²")
    with pytest.raises(InvalidSetting, match="TINC_THREADS"):
        current_runtime()


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    before = current_runtime()
    for name in ("TINC_DEVICE", "TINC_THREADS", "TINC_TRITON", "TINC_CACHE"):
        monkeypatch.setenv(name, "")
    assert current_runtime() == before
