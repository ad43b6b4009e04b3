"""Many threads at once give what one thread gives, and the same seed the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, local
from time import sleep
from typing import Any

import goldens
import numpy as np
import pytest
from volumes import QUICK, volume

from tinc_codec import TINC, decode, runtime
from tinc_codec.decoding.opened import forget_chunks
from tinc_codec.engines.cpu import passes
from tinc_codec.forks import Lock, cached_value
from tinc_codec.runtime import current_runtime
from tinc_codec.stream.residual.wavelets import section
from tinc_codec.threads import begun, each

WORKERS = 8
SHAPES = [(16, 16, 16), (20, 12, 17), (2048,), (8, 8, 8, 8)]
DTYPES = ["uint16", "float32", ">i2", "uint16"]
CHUNKS = [volume(shape, dtype) for shape, dtype in zip(SHAPES, DTYPES, strict=True)]


def round_trip(chunk: np.ndarray) -> tuple[bytes, bytes]:
    payload = bytes(TINC(**QUICK).encode(chunk))
    return payload, decode(payload).tobytes()


def test_eight_threads_give_what_one_gives() -> None:
    alone = [round_trip(chunk) for chunk in CHUNKS]
    start = Barrier(WORKERS)

    def work(worker: int) -> list[tuple[bytes, bytes]]:
        start.wait()
        places = range(worker, worker + len(CHUNKS))  # each worker at another chunk at any time
        found = {at % len(CHUNKS): round_trip(CHUNKS[at % len(CHUNKS)]) for at in places}
        return [found[at] for at in range(len(CHUNKS))]

    with ThreadPoolExecutor(WORKERS) as pool:
        for found in pool.map(work, range(WORKERS)):
            assert found == alone


def test_eight_threads_decode_one_payload() -> None:
    payload = TINC(**QUICK).encode(CHUNKS[0])
    whole = decode(payload)
    selections: list[Any] = [np.s_[at, 1:9, ::3] for at in range(16)] * 4
    with ThreadPoolExecutor(WORKERS) as pool:
        parts = list(pool.map(lambda selection: decode(payload, selection), selections))
    for selection, part in zip(selections, parts, strict=True):
        np.testing.assert_array_equal(part, whole[selection])


def test_the_same_seed_gives_the_same_bytes() -> None:
    for chunk in CHUNKS[:3]:
        assert TINC(**QUICK, seed=3).encode(chunk) == TINC(**QUICK, seed=3).encode(chunk.copy())


def test_voxels_do_not_depend_on_the_number_of_threads() -> None:
    payload = TINC(**QUICK).encode(CHUNKS[0])
    decoded = []
    for threads in (1, 3):
        with runtime(threads=threads):
            decoded.append(decode(payload))
    np.testing.assert_array_equal(*decoded)


def test_each_keeps_the_order_and_the_settings() -> None:
    with runtime(threads=4):
        found = each(lambda k: (k, current_runtime().threads), range(50))
    assert [k for k, _ in found] == list(range(50))
    assert {threads for _, threads in found} == {4}


def test_work_within_work_ends() -> None:
    """Threads that wait for others must not be all that there are."""
    with runtime(threads=6):
        found = each(lambda a: sum(each(lambda b: a * b, range(20))), range(40))
    assert found == [190 * a for a in range(40)]


def test_work_within_work_holds_no_array_for_longer_than_it_takes() -> None:
    """What no thread was free for stays in the pool's queue until the outer work ends."""
    gone: list[bool] = []

    def inner(_: int) -> None:
        array = np.zeros(1000)
        seen = weakref.ref(array)
        each(array.__getitem__, range(8))
        del array
        gone.append(seen() is None)

    with runtime(threads=2):
        each(inner, range(6))
    assert gone == [True] * 6


def test_another_thread_works_while_this_one_goes_on() -> None:
    began, done = Event(), []

    def work(k: int) -> None:
        if k == 1:
            began.set()
        done.append(k)

    with begun(work, 2) as finish:
        assert began.wait(20)
        assert 0 not in done
        finish()
    assert sorted(done) == [0, 1]


@pytest.mark.parametrize("name", ["v2/low_pass_tree", "v2/tree_and_wavelet"])
def test_a_tree_is_evaluated_beside_the_coefficients(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first segment is decoded other threads have nothing else to do."""
    payload = goldens.payload(name)
    with runtime(threads=1):
        expected = decode(payload)
    began, decode_coarse, evaluate = Event(), section.decode_coarse, passes.evaluate_grid

    def after_the_tree_began(*args: Any) -> Any:
        assert began.wait(20)
        return decode_coarse(*args)

    def begin(*args: Any) -> None:
        began.set()
        evaluate(*args)

    forget_chunks()
    monkeypatch.setattr(section, "decode_coarse", after_the_tree_began)
    monkeypatch.setattr(passes, "evaluate_grid", begin)
    with runtime(threads=2):
        np.testing.assert_array_equal(decode(payload), expected)
    assert began.is_set()


def test_threads_stay_for_the_next_time() -> None:
    both, known = Barrier(2), local()

    def is_new(_: int) -> bool:
        both.wait(20)
        seen, known.seen = hasattr(known, "seen"), True
        return not seen

    with runtime(threads=2):
        new = [sum(each(is_new, range(2))) for _ in range(60)]
    # One that has just ended its part may not be idle yet: a few are started, not one each time.
    assert 1 <= sum(new) < 20


def test_the_first_error_is_raised_once_all_have_ended() -> None:
    begun, ended = [], []

    def work(k: int) -> None:
        begun.append(k)
        sleep(0.01 * (k == 0 or k > 3))
        ended.append(k)
        if k in (0, 3):
            raise ValueError(f"item {k}")

    with runtime(threads=3), pytest.raises(ValueError, match="item"):
        each(work, range(100))
    assert sorted(begun) == sorted(ended)
    assert len(begun) < 100


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    with runtime(threads=2):
        each(lambda k: k, range(4))
        child = os.fork()
        if child == 0:
            found = each(lambda k: k, range(4))
            os._exit(0 if found == [0, 1, 2, 3] else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_work_that_a_thread_does_while_the_process_ends_is_done() -> None:
    """As of chunks still read when the first error of a damaged one ends a script."""
    script = """
import time
from concurrent.futures import ThreadPoolExecutor
from tinc_codec import runtime
from tinc_codec.threads import each

def late():
    time.sleep(0.5)
    with runtime(threads=4):
        print(each(lambda item: item + 1, [1, 2, 3]))

ThreadPoolExecutor(1).submit(late)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.stdout == "[2, 3, 4]\n"
    assert not ended.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_lock_that_a_thread_of_the_parent_holds_is_open_in_a_forked_child() -> None:
    lock = Lock()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lock.__enter__).result()
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            with lock:
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        pool.submit(lock.__exit__, None, None, None).result()


class _Slow:
    def __init__(self, begun: Event, go_on: Event) -> None:
        self.begun, self.go_on = begun, go_on

    @cached_value
    def number(self) -> int:
        """Return a number, late."""
        self.begun.set()
        self.go_on.wait()
        return 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_value_that_a_thread_of_the_parent_works_out_is_no_wait_in_a_forked_child() -> None:
    slow, ready = _Slow(Event(), Event()), Event()
    ready.set()
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(lambda: slow.number)
        slow.begun.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(5)
            os._exit(0 if _Slow(Event(), ready).number == 7 else 1)
        status = os.waitpid(child, 0)[1]
        slow.go_on.set()
        assert late.result() == 7
    assert status == 0
    slow.go_on = Event()  # worked out again it would wait for ever
    assert slow.number == 7
