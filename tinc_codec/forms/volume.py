"""A chunk whose voxels are to be said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.normalize import ArrayInfo

Sections = dict[SectionKind, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A chunk whose voxels are to be fitted.

    Attributes
    ----------
    exact : dict of SectionKind to bytes
        The sections that restore everything else.
    info : ArrayInfo
        Shape, dtype, range.
    values : array
        The voxels in their dtype, all axes of the box.
    unit : float32 array, 1 to 4 axes
        The same normalised, axes of one voxel left out.
    weight : float32 array of the same shape, or None
        What each voxel's squared error weighs, up to 1; 0: it is restored by other means.
    budget : int or None
        The most bytes that the payload may take; None where the target is a fidelity.
    few : bytes or None
        The payload that says all values by masks, where these are few; beyond a budget.
    """

    exact: Sections
    info: ArrayInfo
    values: npt.NDArray[Any]
    unit: Float32Array
    weight: Float32Array | None
    budget: int | None
    few: bytes | None = None

    def importance(self) -> Float32Array | None:
        """Return the weights, 1 where voxels are masked; None where all that count are alike.

        Masked voxels are filled with the mean: what is wrong there shows beside them.
        """
        if self.weight is None:
            return None
        found = self.weight
        if not found.all():
            found = np.where(found == 0, np.float32(1), found)
        return None if np.all(found == 1) else found

    def own_budget(self) -> int:
        """Return the budget of a volume that has one."""
        assert self.budget is not None
        return self.budget

    def room(self, budget: int) -> int:
        """Return the bytes that a budget leaves for the fitted form."""
        return budget - size_of(self.exact)


def size_of(sections: Sections) -> int:
    """Return the bytes of a payload with these sections."""
    lengths = [len(data) for data in sections.values()]
    return container.HEADER_BYTES + sum(n + container.section_overhead(n) for n in lengths)
