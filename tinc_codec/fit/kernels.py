"""Triton kernels of the optimisers: a step in one launch. Imports triton when it is loaded."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["size"])
def step(
    p, gradient, scale, m, v, rate, root, size,
    ADAMAX: tl.constexpr, BETA_1: tl.constexpr, BETA_2: tl.constexpr, EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Do one step of Adam or Adamax in place; see :func:`tinc_codec.fit.optimiser.adam`."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    g = tl.load(gradient + at, mask=inside, other=0.0)
    first = tl.load(m + at, mask=inside, other=0.0) * BETA_1 + g * (1 - BETA_1)
    second = tl.load(v + at, mask=inside, other=0.0) * BETA_2
    if ADAMAX:
        second = tl.maximum(second, tl.abs(g) + EPSILON)
        divisor = second
    else:
        second += g * g * (1 - BETA_2)
        divisor = tl.sqrt_rn(second) * tl.load(root) + EPSILON
    factor = tl.load(scale + at, mask=inside, other=0.0) * tl.load(rate)
    value = tl.load(p + at, mask=inside, other=0.0) - tl.div_rn(factor * first, divisor)
    tl.store(p + at, value, mask=inside)
    tl.store(m + at, first, mask=inside)
    tl.store(v + at, second, mask=inside)
