"""Vectors of float32, and loops over them, as LLVM code inside numba functions.

Vectors are as wide as this machine's registers; LLVM turns them into what a machine has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features

from tinc_codec.errors import TincError

FLOAT, INT32, INT64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def _features() -> set[str]:
    """Return what numba compiles for: of this machine what it uses, or NUMBA_CPU_FEATURES."""
    named = config.CPU_FEATURES  # type: ignore[attr-defined]
    text = get_host_cpu_features() if named is None else named  # type: ignore[no-untyped-call]
    return {feature[1:] for feature in text.split(",") if feature.startswith("+")}


if config.DISABLE_JIT:  # type: ignore[attr-defined]
    raise TincError(
        "NUMBA_DISABLE_JIT is set, and tinc_codec's kernels are code for LLVM that Python cannot "
        "run; unset it"
    )

WIDTH = 16 if "avx512f" in _features() else 8 if "avx2" in _features() else 4
VECTOR, BITS = ir.VectorType(FLOAT, WIDTH), ir.VectorType(INT32, WIDTH)


class Array:
    """An array that an intrinsic is given: where it starts, and the length of its last axis."""

    def __init__(self, context: Any, b: Any, kind: Any, value: Any) -> None:
        array = context.make_array(kind)(context, b, value)
        lengths = cgutils.unpack_tuple(b, array.shape, kind.ndim)  # type: ignore[no-untyped-call]
        self.data, self.length = array.data, lengths[-1]

    def row(self, b: Any, k: Any) -> Any:
        """Return where a row of two axes starts."""
        return b.gep(self.data, [b.mul(self.length, k)])


def i64(value: int) -> Any:
    """Return an integer."""
    return ir.Constant(INT64, value)


def splat(value: float | np.float32) -> Any:
    """Return a vector of one number."""
    return ir.Constant(VECTOR, [float(np.float32(value))] * WIDTH)


def broadcast(b: Any, scalar: Any, lanes: int = WIDTH) -> Any:
    """Return a vector of one value."""
    empty = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = b.insert_element(empty, scalar, ir.Constant(INT32, 0))
    return b.shuffle_vector(first, empty, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))


def call(b: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    """Emit a call of one of LLVM's own functions."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    found = cgutils.get_or_insert_function(b.module, kind, name)  # type: ignore[no-untyped-call]
    return b.call(found, arguments)


def load(b: Any, start: Any, at: Any) -> Any:
    """Return the vector from a place of an array on."""
    return b.load(b.bitcast(b.gep(start, [at]), VECTOR.as_pointer()), align=4)


def store(b: Any, value: Any, start: Any, at: Any) -> None:
    """Write a vector to a place of an array."""
    b.store(value, b.bitcast(b.gep(start, [at]), VECTOR.as_pointer()), align=4)


def load_broadcast(b: Any, start: Any, at: Any) -> Any:
    """Return a vector of the number at a place of an array."""
    return broadcast(b, b.load(b.gep(start, [at])))


def loop(
    b: Any, stop: Any, step: int, values: list[Any], body: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Emit ``for i in range(0, stop, step)``, at least once, that carries values along."""
    before = b.block
    inside, after = b.append_basic_block("inside"), b.append_basic_block("after")
    b.branch(inside)
    b.position_at_end(inside)
    i = b.phi(INT64)
    i.add_incoming(i64(0), before)
    carried = [b.phi(value.type) for value in values]
    for phi, value in zip(carried, values, strict=True):
        phi.add_incoming(value, before)
    results = body(i, carried)
    following = b.add(i, i64(step))
    i.add_incoming(following, b.block)
    for phi, result in zip(carried, results, strict=True):
        phi.add_incoming(result, b.block)
    b.cbranch(b.icmp_signed("<", following, stop), inside, after)
    b.position_at_end(after)
    return results


def repeat(
    b: Any,
    values: list[Any],
    more: Callable[[list[Any]], Any],
    body: Callable[[list[Any]], list[Any]],
) -> list[Any]:
    """Emit ``while more(values): values = body(values)``; return the last values."""
    before = b.block
    head, inside = b.append_basic_block("head"), b.append_basic_block("inside")
    after = b.append_basic_block("after")
    b.branch(head)
    b.position_at_end(head)
    carried = [b.phi(value.type) for value in values]
    b.cbranch(more(carried), inside, after)
    b.position_at_end(inside)
    results = body(carried)
    for phi, value, result in zip(carried, values, results, strict=True):
        phi.add_incoming(value, before)
        phi.add_incoming(result, b.block)
    b.branch(head)
    b.position_at_end(after)
    return carried
