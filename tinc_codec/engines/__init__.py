"""Engines: code that evaluates a tree. Same signatures, three rooms.

``reference`` is plain numpy in float64, the oracle; ``cpu`` is numba; ``gpu`` is torch, on a GPU
or on the CPU. All give normalised float32 values that agree within FORMAT.md's tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Protocol, cast

from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.runtime import current_runtime
from tinc_codec.tree.network import Tree


class Engine(Protocol):
    """What an engine's module offers; see :mod:`tinc_codec.engines.reference`."""

    def evaluate_grid(
        self,
        tree: Tree,
        parameters: Float32Array,
        axes: Sequence[Int64Array],
        steps: Float32Array | None = None,
    ) -> Float32Array:
        """Evaluate the tree on the outer product of voxel indices."""

    def begin_grid(
        self,
        tree: Tree,
        parameters: Float32Array,
        axes: Sequence[Int64Array],
        steps: Float32Array | None = None,
    ) -> AbstractContextManager[Callable[[], Float32Array]]:
        """Begin that on other threads, if the engine has any; yields what gives the values."""

    def evaluate_points(
        self,
        tree: Tree,
        parameters: Float32Array,
        points: Sequence[Int64Array],
        steps: Float32Array | None = None,
    ) -> Float32Array:
        """Evaluate the tree at single voxels."""


def current_engine() -> Engine:
    """Return the engine of the run-time settings in force."""
    device = current_runtime().device
    if device == "reference":
        room = "tinc_codec.engines.reference"
    elif device in ("auto", "cpu"):
        room = "tinc_codec.engines.cpu.engine"
    else:
        room = "tinc_codec.engines.gpu.engine"
    return cast(Engine, import_module(room))
