"""Dask's clusters: worker processes on this machine, on its GPUs, of SLURM, or there already."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from multiprocessing.resource_tracker import ensure_running
from typing import TYPE_CHECKING, Any

from tinc_codec.archive.counts import check_counts
from tinc_codec.errors import InvalidSetting
from tinc_codec.runtime import processors

if TYPE_CHECKING:
    from distributed import Client

_ALLOWED_FAILURES = 10  # of the worker a task is on; under preemption tasks are rarely to blame
# One shard at a time in a process: libraries that would start threads of their own are kept to one.
_OTHERS_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "BLOSC_NTHREADS",
)
_ONE_THREAD = dict.fromkeys(_OTHERS_THREADS, "1")
_QUIET = 50  # logging.CRITICAL: when it is interrupted, workers log errors with tracebacks
_HERE = "127.0.0.1"


def available_memory() -> int:
    """Return the bytes of memory that this process may use, limits of its container included."""
    from distributed.system import MEMORY_LIMIT

    return int(MEMORY_LIMIT)


def worker_memory(client: Client | None) -> int:
    """Return the bytes that each worker may use: the least of the client's, or this process's."""
    if client is None:
        return available_memory()
    limits = [
        worker["memory_limit"]
        for worker in client.scheduler_info(n_workers=-1)["workers"].values()
        if worker["memory_limit"]
    ]
    return min(limits, default=available_memory())


def default_workers(tasks: int, *, torch: bool) -> int:
    """Return how many processes to start: one for each processor, if there are tasks for it."""
    return 1 if torch else max(1, min(processors(), tasks))


@contextlib.contextmanager
def cluster_client(
    workers: int, *, scheduler: str | None = None, cluster: str = "local"
) -> Iterator[Client | None]:
    """Give a client of the workers that were asked for; None for one worker: this process.

    Parameters
    ----------
    workers : int
        Processes, or jobs.
    scheduler : str, optional
        Address of a scheduler that runs already.
    cluster : str
        "local", "cuda" or "slurm".

    Raises
    ------
    InvalidSetting
        If the cluster is of another kind, or cannot be had here.
    OSError
        If there is no scheduler at the address.
    """
    if scheduler is not None:
        chosen = scheduler_client(scheduler)
    elif cluster == "cuda":
        chosen = gpu_client()
    elif cluster == "slurm":
        chosen = slurm_client(workers)
    elif cluster != "local":
        raise InvalidSetting(f"cluster={cluster!r} must be local, cuda or slurm")
    elif workers == 1:
        yield None
        return
    else:
        chosen = local_client(workers)
    with chosen as client:
        yield client


@contextlib.contextmanager
def local_client(workers: int) -> Iterator[Client]:
    """Start worker processes on this machine, with an equal share of its processors each.

    Parameters
    ----------
    workers : int
        Processes.

    Raises
    ------
    InvalidSetting
        If workers is below 1.
    """
    check_counts(workers=workers)
    share = max(1, processors() // workers)
    environment = {**_ONE_THREAD, "TINC_THREADS": str(share)}
    with _nannies([environment] * workers, {}) as client:
        yield client


@contextlib.contextmanager
def gpu_client() -> Iterator[Client]:
    """Start a worker process for each GPU of this machine, by dask-cuda where it is installed.

    ``CUDA_VISIBLE_DEVICES`` chooses the GPUs.

    Raises
    ------
    InvalidSetting
        If there is no GPU.
    """
    chosen = visible_gpus()
    if not chosen:
        raise InvalidSetting(
            "there is no GPU on this machine (nvidia-smi -L, CUDA_VISIBLE_DEVICES); take "
            "--cluster local"
        )
    threads = str(max(1, processors() // len(chosen)))
    environment = {**_ONE_THREAD, "TINC_DEVICE": "cuda", "TINC_THREADS": threads}
    try:
        from dask_cuda import LocalCUDACluster  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        each = [
            # The others stay visible, behind its own, as dask-cuda has it.
            {**environment, "CUDA_VISIBLE_DEVICES": ",".join(chosen[k:] + chosen[:k])}
            for k in range(len(chosen))
        ]
        with _nannies(each, {"GPU": 1}) as client:
            yield client
        return
    from distributed import Client

    with (
        _in_environment(environment),
        _configured(),
        LocalCUDACluster(
            CUDA_VISIBLE_DEVICES=",".join(chosen), threads_per_worker=1, resources={"GPU": 1}
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextlib.contextmanager
def _in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started within the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def visible_gpus() -> list[str]:
    """Return the numbers or names of the GPUs that this process may use.

    Of those that ``CUDA_VISIBLE_DEVICES`` lists, CUDA takes the ones before the first that is none.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = (name.strip() for name in named.split(","))
        return list(itertools.takewhile(lambda name: name and not name.startswith("-"), names))
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(k) for k in range(len(lines))]


@contextlib.contextmanager
def slurm_client(workers: int) -> Iterator[Client]:
    """Start workers as SLURM jobs, by dask-jobqueue, as its configuration says.

    Queue, walltime, memory and account come from ``~/.config/dask/jobqueue.yaml``. Give each job
    one process and one thread, and workers a lifetime below the walltime, such as
    ``worker-extra-args: ["--lifetime", "55m", "--lifetime-stagger", "4m"]``.

    Parameters
    ----------
    workers : int
        Most jobs at a time; there are fewer where the queue gives fewer.

    Raises
    ------
    InvalidSetting
        If workers is below 1, or dask-jobqueue is not installed.
    """
    check_counts(workers=workers)
    try:
        from dask_jobqueue import SLURMCluster  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise InvalidSetting(
            "--cluster slurm needs dask-jobqueue: pip install dask-jobqueue; or start a job array "
            "with --partition i/n, which needs nothing"
        ) from None
    from distributed import Client

    with _configured(), SLURMCluster() as cluster, Client(cluster) as client:
        cluster.adapt(minimum=1, maximum=workers)
        client.wait_for_workers(1)
        yield client


@contextlib.contextmanager
def scheduler_client(address: str) -> Iterator[Client]:
    """Connect to a scheduler that runs already, and has at least one worker.

    Raises
    ------
    OSError
        If there is none at the address, or no worker comes within half a minute.
    """
    from distributed import Client

    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(Client(address, timeout=10))
            client.wait_for_workers(1, timeout=30)
        except TimeoutError as error:
            raise OSError(f"no scheduler with workers at {address}: {error}") from error
        yield client


@contextlib.contextmanager
def _nannies(environments: list[dict[str, str]], resources: dict[str, float]) -> Iterator[Client]:
    """Start a scheduler here and a process for each environment, each started anew if it dies."""
    from distributed import Client, Nanny, Scheduler, SpecCluster

    limit = available_memory() // len(environments)
    workers: dict[int, Any] = {
        k: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "memory_limit": limit,
                "env": environment,
                "resources": resources,
                "host": _HERE,
                "dashboard": False,
                "silence_logs": _QUIET,
            },
        }
        for k, environment in enumerate(environments)
    }
    scheduler = {"cls": Scheduler, "options": {"host": _HERE, "dashboard_address": f"{_HERE}:0"}}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_configured())
        with _interrupts_held_back():
            cluster = SpecCluster(workers=workers, scheduler=scheduler, silence_logs=_QUIET)
            stack.enter_context(cluster)
        client = stack.enter_context(Client(cluster))
        client.wait_for_workers(len(environments))
        yield client


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Start threads and processes that Ctrl-C does not reach: this process stops them.

    They inherit what signals are held back. One that comes meanwhile arrives after the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    ensure_running()  # multiprocessing's, whose start lets all signals through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _configured() -> Iterator[None]:
    import dask

    options = {
        "distributed.scheduler.allowed-failures": _ALLOWED_FAILURES,
        # Shards are no intermediate results: workers hold nothing to spill.
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.target": False,
    }
    with dask.config.set(options):
        yield
