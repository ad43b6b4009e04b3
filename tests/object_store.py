"""A server of S3 on this machine alone, for tests: moto on a random port of the loopback."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any
from unittest import mock

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@dataclass(frozen=True)
class ObjectStore:
    """A bucket on the server.

    ``environment`` is for child processes, ``options`` are storage options of fsspec; either is
    enough to reach it.
    """

    endpoint: str
    bucket: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}"

    @property
    def options(self) -> dict[str, Any]:
        return {
            "key": "test",
            "secret": "test",
            "client_kwargs": {"endpoint_url": self.endpoint},
        }

    @property
    def environment(self) -> dict[str, str]:
        return {**KEYS, "AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}

    def filesystem(self) -> Any:
        import s3fs

        return s3fs.S3FileSystem(**self.options, skip_instance_cache=True)


@cache
def _endpoint() -> str:
    """Start the server, once in a process: filesystems that fsspec keeps go on knowing it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    atexit.register(server.stop)
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


_numbers = count()


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Give a new bucket on the server, which the environment names until the block is left."""
    store = ObjectStore(_endpoint(), f"volumes-{next(_numbers)}")
    with mock.patch.dict(os.environ, store.environment):
        store.filesystem().mkdir(store.bucket)
        yield store
