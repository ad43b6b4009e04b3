"""Do the kernels compile for 64-bit ARM, and do the exact ones stay exact there?

``python -m benchmarks.arm`` compiles the kernels that some encodings and decodings take for a plain
processor, in a folder of its own, and has LLVM make code for Linux and macOS on ARM of them. It
counts those that it makes no code for, that hold x86's own functions, and that fuse a product with
a sum: kernels of trees may, those of wavelets, bounds and filters may not (FORMAT.md). Nothing is
run on ARM.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

from benchmarks.rows import markdown

_TARGETS = ("aarch64-unknown-linux-gnu", "arm64-apple-darwin")
_EXACT = "tinc_codec.stream"
_FUSED = re.compile(r"^\s*(fn?m(add|sub)|fml[as])\b", re.MULTILINE)
# Reference counting of numba, which x86's own passes have written into what LLVM is given here.
_COUNTING = "llvm.x86.atomic"
_COLUMNS = ("target", "kernels", "without code", "with x86's functions", "fused", "exact but fused")


def _use_kernels(quick: bool) -> None:
    """Encode and decode what takes most kernels."""
    from tinc_codec import decode, encode
    from tinc_codec.phantom import phantom

    edge = 24 if quick else 40
    volume = phantom((edge, edge, edge))
    several = [{"psnr": 30, "effort": 1}]
    if not quick:
        several += [{"ratio": 32, "effort": 2}, {"max_error": 5}, {"max_error": 0}]
        several += [{"ratio": 8, "effort": 1, "form": "tree", "iterations": 20}]
    for settings in several:
        payload = encode(volume, **settings)
        decode(payload)
        decode(payload, 3)


def _kernels() -> Iterator[tuple[str, str]]:
    """Yield the module and the LLVM code of each kernel compiled so far."""
    from numba.core.dispatcher import Dispatcher

    for found in gc.get_objects():
        if isinstance(found, Dispatcher) and found.py_func.__module__.startswith("tinc_codec"):
            for code in found.inspect_llvm().values():
                yield found.py_func.__module__, code


def _row(target: str, kernels: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    from llvmlite import binding

    machine = binding.Target.from_triple(target).create_target_machine(opt=2)
    failed = foreign = fused = wrong = 0
    for module, code in kernels:
        given = re.sub(r"target triple = .*", f'target triple = "{target}"', code)
        given = re.sub(
            r"target datalayout = .*", f'target datalayout = "{machine.target_data}"', given
        )
        given = given.replace(_COUNTING, "x86.atomic").replace(" immarg", "")
        foreign += "llvm.x86" in given
        try:
            made = machine.emit_assembly(binding.parse_assembly(given))
        except RuntimeError:
            failed += 1
            continue
        fuses = bool(_FUSED.search(made))
        fused += fuses
        wrong += fuses and module.startswith(_EXACT)
    counts = (len(kernels), failed, foreign, fused, wrong)
    return target, *map(str, counts)


def _measure(quick: bool) -> None:
    from llvmlite import binding

    _use_kernels(quick)
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    kernels = list(_kernels())
    print(markdown(_COLUMNS, (_row(target, kernels) for target in _TARGETS)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line, in a process that compiles for a plain processor."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arm", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="wavelets alone")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        _measure(options.quick)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": folder}
        command = [sys.executable, "-m", "benchmarks.arm", "--here", *["--quick"] * options.quick]
        return subprocess.run(command, env=os.environ | plain, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
