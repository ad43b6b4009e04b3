"""A window of tasks in flight on dask's workers, in batches that are worth scheduling."""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Callable, Generator, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from distributed import Client, Future

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

_WINDOW = 4  # futures under way for each worker, of one task each, or of many that take no time
_BATCH_SECONDS = 0.2
_LARGEST_BATCH = 64
_REFRESH_SECONDS = 5.0


def on_client(
    work: Callable[[_Job, int], _Result],
    job: _Job,
    tasks: Iterator[int],
    client: Client,
    *,
    name: str,
) -> Generator[tuple[int, _Result | Exception]]:
    """Do tasks on dask's workers, a few for each under way: memory stays flat at any number.

    Parameters
    ----------
    work : callable
        What a worker calls, with a job and the number of a task.
    job : object
        Its first argument, small: it goes along with each task.
    tasks : iterator of int
        Numbers of tasks.
    client : distributed.Client
        Of the workers.
    name : str
        Of the run, to tell its tasks from those of others.

    Yields
    ------
    (int, result or Exception)
        Of each task, as they end.

    Raises
    ------
    OSError
        If the scheduler is gone.
    """
    import cloudpickle
    from distributed import as_completed

    packed = cloudpickle.dumps((work, job))  # once, not with each task
    waiting = Waiting(tasks)
    under_way: dict[Any, tuple[list[int], Future[Any]]] = {}
    window = as_completed()
    most, asked = 0, -_REFRESH_SECONDS
    try:
        for number in itertools.count():
            if time.monotonic() - asked > _REFRESH_SECONDS:
                workers = client.scheduler_info(n_workers=-1)["workers"]
                most, asked = _WINDOW * max(1, len(workers)), time.monotonic()
            batch = waiting.take() if len(under_way) < most else []
            if batch:
                key = f"shards-{name}-{number}-{batch[0]}"
                future = client.submit(_do, packed, batch, key=key, pure=False)
                under_way[key] = batch, future
                window.add(future)
            elif under_way:
                future = next(window)
                yield from _ended(future, under_way.pop(future.key)[0], waiting)
            else:
                return
    finally:
        if client.status == "running":
            client.cancel([future for _, future in under_way.values()])


class Waiting:
    """Tasks still to be sent, in batches that take about as long as scheduling is worth.

    Scheduling takes milliseconds for each future. Shards of background take no longer.
    """

    def __init__(self, tasks: Iterator[int]) -> None:
        self._tasks = tasks
        self._back: list[int] = []
        self._alone: list[int] = []
        self._size = 1

    def take(self) -> list[int]:
        """Return the next batch; none if there are no tasks."""
        if self._alone:
            return [self._alone.pop()]
        batch = self._back[: self._size]
        del self._back[: self._size]
        return batch + list(itertools.islice(self._tasks, self._size - len(batch)))

    def done(self, batch: list[int], count: int, seconds: float) -> None:
        """Note how long the first ones of a batch took; the others were not begun."""
        self._back += batch[count:]
        wanted = int(count * _BATCH_SECONDS / max(seconds, 1e-9))
        self._size = max(1, min(wanted, 2 * count, _LARGEST_BATCH))

    def failed(self, batch: list[int]) -> None:
        """Take tasks back, of which one has failed: which one shows if each is sent alone."""
        self._alone += reversed(batch)


def _do(packed: bytes, batch: list[int]) -> tuple[list[Any], float]:
    """Do tasks until the time of a batch is over, at least one; return results and seconds."""
    work, job = _unpacked(packed)
    started = time.perf_counter()
    results: list[Any] = []
    for index in batch:
        results.append(work(job, index))
        if time.perf_counter() - started > _BATCH_SECONDS:
            break
    return results, time.perf_counter() - started


@lru_cache(maxsize=1)
def _unpacked(packed: bytes) -> Any:
    return pickle.loads(packed)


def _ended(future: Future[Any], batch: list[int], waiting: Waiting) -> Iterator[tuple[int, Any]]:
    if future.status == "finished":
        results, seconds = future.result()
        waiting.done(batch, len(results), seconds)
        yield from zip(batch, results, strict=False)
    elif future.status != "error":
        raise OSError("the scheduler is gone; start it again, and run the same command to go on")
    elif len(batch) > 1:
        waiting.failed(batch)
    else:
        yield batch[0], future.exception()
