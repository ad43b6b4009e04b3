"""SCI: blocks whose spectrum is concentrated, a small sine network for each.

Yang et al., "SCI: A Spectrum Concentrated Implicit Neural Compression for Biomedical Data", AAAI
2023, whose text was not at hand; this follows TINC's account of it and the code that its authors
released (INC, and the partition in its successor BRIEF). From there: an octree's nodes are chosen
so that the mean, over voxels, of their spectrum concentration max |F| / sum |F| is highest, with at
most one block for each 1,361 parameters, levels from log8 of that number to two more; networks of
five layers with sin(20 (W x + b)) in the first and sin(30 (W x + b)) in later ones, coordinates in
[-1, 1] along each block; weights in float32.

What is ours: ``_MOST_BLOCKS`` is TINC's "amax = 32", read as the most blocks, for blocks of at most
32 voxels a side would have 16 parameters each in TINC's own volumes at 1024 times; the optimum is
found exactly by dynamic programming instead of an integer program; a network's share is that of its
octree level (1/8 a level); the funnel is a first hidden layer 1.5 times as wide as the next three,
for want of the published proportion; values standardised; Adam with a falling rate and 8,192 voxels
a step instead of 80,000 steps of Adamax over all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from benchmarks.baselines import fields
from benchmarks.baselines.protocol import Array, Coded, Target, timed

_MOST_BLOCKS = 32
_PARAMETERS_A_BLOCK = 1361
_HIDDEN, _TAPER = 4, 1.5
_FREQUENCY, _RATE = 20.0, 3e-3
_DEEPER = 2
# Number of parameters (4), bytes of the tree (1), the tree: 4 splits and 29 more bits at most.
_LAYOUT = 4 + 1 + 5

# An octree node: level, and place along each axis.
Node = tuple[int, int, int, int]
# Boxes are (start, stop) along each axis.
Box = tuple[slice, ...]


def box_of(node: Node, shape: Sequence[int]) -> Box:
    """Return the voxels of an octree's node."""
    parts = 1 << node[0]
    return tuple(
        slice(n * at // parts, n * (at + 1) // parts) for n, at in zip(shape, node[1:], strict=True)
    )


def concentration(block: Array) -> float:
    """Return the share of the largest Fourier coefficient in the sum of all magnitudes."""
    magnitudes = np.abs(np.fft.fftn(block.astype(np.float64)))
    total = float(magnitudes.sum())
    return float(magnitudes.max()) / total if total else 1.0


def partition(volume: Array, most: int) -> list[Node]:
    """Return at most so many octree nodes that tile the volume, of highest mean concentration."""
    least = math.floor(math.log(most, 8) + 1e-9)
    deepest = min(least + _DEEPER, int(math.log2(min(volume.shape))))
    least = min(least, deepest)

    def best(node: Node, blocks: int) -> list[tuple[float, list[Node]]]:
        """Return, for each number of blocks up to ``blocks``, the best value and its nodes."""
        nothing: tuple[float, list[Node]] = (-math.inf, [])
        table = [nothing] * (blocks + 1)
        level = node[0]
        if level >= least and blocks >= 1:
            value = concentration(volume[box_of(node, volume.shape)]) / 8**level
            table[1:] = [(value, [node])] * blocks
        if level < deepest and blocks >= 8:
            joint: list[tuple[float, list[Node]]] = [(0.0, [])] + [nothing] * blocks
            for corner in np.ndindex(2, 2, 2):
                child = (level + 1, *(2 * a + b for a, b in zip(node[1:], corner, strict=True)))
                options = best(child, blocks - 7)  # type: ignore[arg-type]
                joint = [
                    max(
                        (
                            (
                                joint[total - k][0] + options[k][0],
                                joint[total - k][1] + options[k][1],
                            )
                            for k in range(1, min(total, blocks - 7) + 1)
                        ),
                        key=lambda pair: pair[0],
                        default=nothing,
                    )
                    for total in range(blocks + 1)
                ]
            table = [max(pair, key=lambda p: p[0]) for pair in zip(table, joint, strict=True)]
        return table

    return max(best((0, 0, 0, 0), most), key=lambda pair: pair[0])[1]


def _groups(nodes: Sequence[Node]) -> list[list[Node]]:
    """Return the nodes level by level, whose networks are equal."""
    levels = sorted({node[0] for node in nodes})
    return [sorted(node for node in nodes if node[0] == level) for level in levels]


def _stacks(
    nodes: Sequence[Node], parameters: int, generator: torch.Generator
) -> list[fields.Stack] | None:
    stacks = []
    for group in _groups(nodes):
        share = parameters / 8 ** group[0][0]
        widths = fields.widths_within(math.floor(share), 3, _HIDDEN, _TAPER)
        if widths is None:
            return None
        stacks.append(fields.Stack(len(group), widths, _FREQUENCY, generator))
    return stacks


def _tree_bytes(nodes: Sequence[Node]) -> bytes:
    """Return which nodes are split, depth first, a bit each, after the length in one byte."""
    chosen = set(nodes)
    bits: list[int] = []

    def visit(node: Node) -> None:
        bits.append(int(node not in chosen))
        if bits[-1]:
            for child in _children(node):
                visit(child)

    visit((0, 0, 0, 0))
    packed = np.packbits(np.array(bits, np.uint8)).tobytes()
    return bytes([len(packed)]) + packed


def _children(node: Node) -> list[Node]:
    level, z, y, x = node
    return [(level + 1, 2 * z + a, 2 * y + b, 2 * x + c) for a, b, c in np.ndindex(2, 2, 2)]


def _read_tree(payload: bytes) -> list[Node]:
    bits = iter(np.unpackbits(np.frombuffer(payload, np.uint8)))
    nodes: list[Node] = []

    def visit(node: Node) -> None:
        if next(bits):
            for child in _children(node):
                visit(child)
        else:
            nodes.append(node)

    visit((0, 0, 0, 0))
    return nodes


def _sampler(unit: torch.Tensor, group: Sequence[Node], count: int) -> fields.Sample:
    """Return the sampler of a group: voxels of each block, as coordinates along that block."""
    boxes = [box_of(node, unit.shape) for node in group]
    start = torch.tensor([[s.start for s in box] for box in boxes])[:, None]
    sides = torch.tensor([[s.stop - s.start for s in box] for box in boxes])[:, None]

    def sample(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        draw = torch.rand((len(group), count, 3), generator=generator)
        index = torch.minimum((draw * sides).long(), sides - 1)
        coordinates = torch.where(sides > 1, 2 * index / (sides - 1).clamp(min=1) - 1, 0.0)
        z, y, x = (index + start).unbind(-1)
        return coordinates, unit[z, y, x][..., None]

    return sample


@dataclass(frozen=True, slots=True)
class _Sci:
    name: str = "SCI"
    library: str = "torch"
    fits: bool = True

    def encode(self, volume: Array, target: Target) -> Coded | None:
        # The tree of a partition is not known yet: room for that of most blocks.
        parameters = (target.budget(volume) - fields.HEADER - _LAYOUT) // 4
        most = max(1, min(_MOST_BLOCKS, parameters // _PARAMETERS_A_BLOCK))
        if fields.widths_within(parameters, 3, _HIDDEN, _TAPER) is None:
            return None
        steps = fields.steps_of(target)
        payload, encode_s = timed(lambda: self.compress(volume, parameters, most, steps))
        decode = partial(self.decompress, payload, volume)
        decoded, decode_s = timed(decode)
        return Coded(
            payload_bytes=len(payload),
            decoded=decoded,
            encode_s=encode_s,
            decode_s=decode_s,
            knob=f"{parameters} parameters, at most {most} blocks",
            decode=decode,
            note=f"{steps} steps, float32 weights",
        )

    def compress(self, volume: Array, parameters: int, most: int, steps: int) -> bytes:
        """Fit one network for each block of the best partition."""
        generator = fields.ready()
        unit, header = fields.standardised(volume)
        nodes = partition(volume, most)
        tree = _tree_bytes(nodes)
        stacks = _stacks(nodes, parameters, generator)
        assert stacks is not None
        samples = [
            _sampler(unit, group, max(1, 8192 // 8 ** group[0][0])) for group in _groups(nodes)
        ]
        fields.fit(stacks, samples, steps, _RATE, generator)
        return header + parameters.to_bytes(4, "little") + tree + fields.to_bytes(stacks)

    def decompress(self, payload: bytes, volume: Array) -> Array:
        """Return the values; of the volume only shape and dtype are used."""
        at = fields.HEADER
        parameters = int.from_bytes(payload[at : at + 4], "little")
        at += 4
        length = payload[at]
        nodes = _read_tree(payload[at + 1 : at + 1 + length])
        stacks = _stacks(nodes, parameters, fields.ready())
        assert stacks is not None
        fields.load(stacks, payload[at + 1 + length :])
        unit = np.empty(volume.shape, np.float32)
        for stack, group in zip(stacks, _groups(nodes), strict=True):
            for which, node in enumerate(group):
                one = _one_of(stack, which)
                place = box_of(node, volume.shape)
                shape = unit[place].shape
                places = fields.grid(shape)
                values = fields.evaluate(
                    one, lambda tile, places=places: places[tile][None], places.shape[0]
                )
                unit[place] = values.reshape(shape)
        return fields.destandardised(unit, payload, volume)


def _one_of(stack: fields.Stack, which: int) -> fields.Stack:
    """Return one network of a stack."""
    widths = [weight.shape[1] for weight in stack.weights] + [1]
    one = fields.Stack(1, widths, stack.frequency, torch.Generator())
    with torch.no_grad():
        for mine, theirs in zip(one.parameters(), stack.parameters(), strict=True):
            mine.copy_(theirs[which : which + 1])
    return one


BASELINES = (_Sci(),)
