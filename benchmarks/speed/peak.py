"""The most multiply-adds a second that the processor does, from registers, by an own loop.

Written in LLVM's language, since a compiler would fold or reorder any such loop in Python: as many
independent vector accumulators as registers hold, each multiplied and added to at every turn.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic


def _vector() -> tuple[int, int]:
    """Return lanes of a vector and the number of accumulators: 32 or 16 registers, some spare."""
    features = binding.get_host_cpu_features()
    if features.get("avx512f"):
        return 16, 24
    return (8, 12) if features.get("avx2") else (4, 12)


_LANES, _ACCUMULATORS = _vector()


@intrinsic
def _spin(typing_context: Any, turns: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (n,) = arguments
        vector = ir.VectorType(ir.FloatType(), _LANES)
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{_LANES}f32"
        )
        before = builder.block
        loop, end = builder.append_basic_block("loop"), builder.append_basic_block("end")
        builder.branch(loop)
        builder.position_at_end(loop)
        turn = builder.phi(n.type)
        turn.add_incoming(ir.Constant(n.type, 0), before)
        sums = [builder.phi(vector) for _ in range(_ACCUMULATORS)]
        factor = ir.Constant(vector, [0.999] * _LANES)
        following = [builder.call(fma, [s, factor, factor]) for s in sums]
        for k, (s, new) in enumerate(zip(sums, following, strict=True)):
            s.add_incoming(ir.Constant(vector, [float(k)] * _LANES), before)
            s.add_incoming(new, loop)
        next_turn = builder.add(turn, ir.Constant(n.type, 1))
        turn.add_incoming(next_turn, loop)
        builder.cbranch(builder.icmp_signed("<", next_turn, n), loop, end)
        builder.position_at_end(end)
        total = following[0]
        for part in following[1:]:
            total = builder.fadd(total, part)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return types.float32(types.int64), generate


@njit(nogil=True)
def _run(turns: int) -> float:
    return _spin(turns)


def peak_gmacs(threads: int, turns: int = 20_000_000) -> float:
    """Return billions of float32 multiply-adds a second, all threads together."""
    _run(1)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_run, [1000] * threads))  # the threads are there before the clock starts
        started = time.perf_counter()
        list(pool.map(_run, [turns] * threads))
        seconds = time.perf_counter() - started
    return threads * turns * _LANES * _ACCUMULATORS / seconds / 1e9
