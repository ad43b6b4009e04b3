"""Calls from several threads: they share the processors, and long ones wait for their turn."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Lock
from time import sleep
from typing import Any

import numpy as np
import pytest
from volumes import QUICK, volume

import tinc_codec
from tinc_codec import encode, runtime, turns
from tinc_codec.threads import each


@pytest.fixture(autouse=True)
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "processors", lambda: 4)


def seen_beside(others: int, look: Callable[[], int]) -> int:
    """Return what a call sees while others are under way."""
    go_on = Event()

    def call(begun: Event) -> None:
        with turns.counted():
            begun.set()
            assert go_on.wait(20)

    with ThreadPoolExecutor(max(1, others)) as pool:
        all_begun = [Event() for _ in range(others)]
        for begun in all_begun:
            pool.submit(call, begun)
        assert all(begun.wait(20) for begun in all_begun)
        with turns.counted():
            found = look()
        go_on.set()
    return found


@pytest.mark.parametrize(("others", "share"), [(0, 4), (1, 2), (2, 1), (3, 1), (9, 1)])
def test_calls_share_the_processors(others: int, share: int) -> None:
    assert seen_beside(others, turns.threads) == share
    assert turns.threads() == 4


def test_the_threads_that_were_asked_for_are_not_shared() -> None:
    with runtime(threads=3):
        assert seen_beside(3, turns.threads) == 3


def test_parts_of_a_call_are_not_counted_again() -> None:
    def share(_: int) -> int:
        with turns.counted(), turns.in_turn():
            return turns.threads()

    with turns.counted():
        assert each(share, range(6)) == [4] * 6
    with turns.in_turn():
        assert each(share, range(6)) == [4] * 6


def test_no_more_chunks_are_encoded_at_once_than_there_are_processors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock, at_once, most = Lock(), 0, 0
    module = sys.modules["tinc_codec.encode"]
    prepare = module._prepare

    def counting(*args: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        sleep(0.02)
        with lock:
            at_once -= 1
        return prepare(*args)

    monkeypatch.setattr(module, "_prepare", counting)
    chunk = volume((12, 12, 12))
    alone = encode(chunk, **QUICK)
    with ThreadPoolExecutor(12) as pool:
        assert set(pool.map(lambda _: encode(chunk, **QUICK), range(12))) == {alone}
    assert 1 < most <= 4


def test_turns_come_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has just had one does not go before those who wait."""
    monkeypatch.setattr(turns, "processors", lambda: 1)
    had, all_there = [0, 0, 0], Barrier(3)

    def work(k: int) -> None:
        all_there.wait(20)
        while max(had) < 60:
            with turns.in_turn():
                had[k] += 1
                sleep(0.001)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    assert min(had) > 40


def test_an_error_ends_a_turn() -> None:
    for _ in range(5):
        with pytest.raises(ValueError, match="in it"), turns.in_turn():
            raise ValueError("in it")
    assert turns.threads() == 4
    with pytest.raises(tinc_codec.UnsupportedData):
        encode(np.zeros((4, 4), complex), ratio=4)
    assert turns.threads() == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_turns_of_the_parent_are_none_of_a_forked_child() -> None:
    begun, go_on = [Event() for _ in range(4)], Event()

    def call(own: Event) -> None:
        with turns.in_turn():
            own.set()
            go_on.wait()

    with ThreadPoolExecutor(4) as pool:
        for own in begun:
            pool.submit(call, own)
        assert all(own.wait(20) for own in begun)
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            with turns.in_turn():
                os._exit(0 if turns.threads() == 4 else 1)
        status = os.waitpid(child, 0)[1]
        go_on.set()
    assert status == 0
