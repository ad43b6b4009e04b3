"""Freed memory is kept for the next chunk, in workers of dask too, unless somebody objects."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from tinc_codec import encode

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only the GNU C library is told what to keep"
)

# Pages taken anew, of 768, each time that 3 MiB are asked for and given back (numpy asks for larger
# pages from 4 MiB on).
FAULTS = """
import resource
import sys
import numpy as np
import tinc_codec

chunk = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
if "encode" in sys.argv:
    tinc_codec.encode(chunk, max_error=0)
elif "decode" in sys.argv:
    tinc_codec.decode(bytes.fromhex(sys.argv[-1]))

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    np.ones(3 << 20, np.uint8)
before = faults()
for _ in range(10):
    np.ones(3 << 20, np.uint8)
print((faults() - before) // 10)
"""


def faults(*first: str, **environment: str) -> int:
    rest = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, *first], env=rest | environment, capture_output=True,
        check=True,
    )  # fmt: skip
    return int(run.stdout)


# The second is what distributed sets for its workers.
@pytest.mark.parametrize("environment", [{}, {"MALLOC_TRIM_THRESHOLD_": "65536"}])
@pytest.mark.parametrize("first", ["encode", "decode"])
def test_pages_are_taken_once(first: str, environment: dict[str, str]) -> None:
    payload = encode(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), max_error=0)
    assert faults(first, payload.hex(), **environment) < 80


def test_a_process_that_only_imports_the_package_is_left_as_it_is() -> None:
    assert faults(MALLOC_TRIM_THRESHOLD_="65536") > 500


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_what_somebody_asked_for_stays(name: str) -> None:
    assert faults("encode", **{name: "131072"}) > 500


def test_that_is_what_distributed_sets() -> None:
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    assert distributed.__version__
    found = dask.config.get("distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_")
    assert str(found) == "65536"
