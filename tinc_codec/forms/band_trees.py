"""Trees to which the wavelet coefficients of what they leave are to be added.

A tree says best what is smooth, or smooth on either side of a surface. A low-pass band with half as
many places along each axis holds nearly all of that: a tree of such a band is fitted, and decoded,
with an eighth of the arithmetic; what is finer is left to the coefficients. A tree of the voxels
themselves says sharp surfaces a little better, where there is time for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tinc_codec.array_types import Float32Array
from tinc_codec.decoding.opened import long_axes, most_parameters, open_chunk
from tinc_codec.decoding.smoothed import made_smooth
from tinc_codec.engines import current_engine
from tinc_codec.forms.candidate import Form
from tinc_codec.forms.volume import Sections, Volume
from tinc_codec.settings import Settings
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.residual.axes import AXES, three_axes
from tinc_codec.threads import each
from tinc_codec.tree import network, section, weights

if TYPE_CHECKING:
    from tinc_codec.fit.chunk import FittedTree
    from tinc_codec.stream.residual.wavelets.wavelet import TransformPlan

# A band has so many times fewer places than there are voxels, or more.
_LEAST_FEWER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class BandTree:
    """A tree of a low-pass band, or of the voxels.

    Attributes
    ----------
    sections : dict of SectionKind to bytes
        TREE and WEIGHTS.
    said : float32 array, of the volume's shape
        What it comes to in the volume, in normalised units.
    plan : TransformPlan or None
        Of the transform whose band it is of; None: any, it is of the voxels.
    """

    sections: Sections
    said: Float32Array
    plan: TransformPlan | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What a tree is to be fitted to.

    Attributes
    ----------
    values : float32 array, 1 to 4 axes
        A low-pass band of normalised values, or these; axes of one sample left out.
    weight : float32 array of the same shape, or None
        What errors weigh.
    above : TransformPlan
        The levels of the transform down to it; none for the voxels.
    plan : TransformPlan or None
        As in :class:`BandTree`.
    """

    values: Float32Array
    weight: Float32Array | None
    above: TransformPlan
    plan: TransformPlan | None


def band_of(volume: Volume, form: Form | None) -> Band | None:
    """Return a low-pass band of a volume; None where it has none that is small enough.

    That of the transform of the form found so far, unless it leaves too many places.
    """
    from tinc_codec.fit import residual
    from tinc_codec.stream.residual.wavelets import wavelet

    coded = None if form is None else open_chunk(form.payload).wavelet
    if coded is None:
        return None
    plan = coded.header.plan
    if len(plan.shapes) < 2 or _fewer(plan, 1) < _LEAST_FEWER:
        plan = residual.plan_of(plan.shapes[0], (0,) * AXES)
    depths = [k for k in range(1, len(plan.shapes)) if _fewer(plan, k) >= _LEAST_FEWER]
    if not depths or not long_axes(plan.shapes[depths[0]]):
        return None
    depth = depths[0]
    above = wavelet.finer(plan, depth)
    # Copied: as a view of all bands it would keep the memory of all.
    low = wavelet.forward(volume.unit.reshape(plan.shapes[0]), above, each).low.copy()
    shape = long_axes(low.shape)
    weight = None
    if volume.weight is not None:
        worth = residual.worths(volume.weight.reshape(plan.shapes[0]), above)
        weight = worth.low.reshape(shape).copy()
    return Band(values=low.reshape(shape), weight=weight, above=above, plan=plan)


def _fewer(plan: TransformPlan, depth: int) -> float:
    return math.prod(plan.shapes[0]) / math.prod(plan.shapes[depth])


def voxels_of(volume: Volume) -> Band:
    """Return the voxels of a volume as a band."""
    from tinc_codec.stream.residual.wavelets import wavelet

    above = wavelet.transform_plan(three_axes(volume.unit.shape), ())
    return Band(values=volume.unit, weight=volume.weight, above=above, plan=None)


def fitted(
    volumes: Sequence[Volume],
    bands: Sequence[Band],
    settings: Settings,
    rooms: Sequence[int],
    share: float = 1.0,
) -> list[BandTree | None]:
    """Fit a tree to a band of each volume within so many bytes; None where none fits.

    Parameters
    ----------
    volumes, bands : sequences
        Volumes, and the band of each.
    settings : Settings
        As the user gave them.
    rooms : sequence of int
        Bytes at hand for the sections of each tree.
    share : float
        Part of the effort's work to be done.
    """
    if not volumes:
        return []
    from tinc_codec.fit.chunk import fit_trees

    found = fit_trees(
        [band.values for band in bands], [band.weight for band in bands], settings, rooms, share
    )

    def in_volume(triple: tuple[Volume, Band, FittedTree | None]) -> BandTree | None:
        volume, band, tree = triple
        return None if tree is None else _in_volume(volume, band, tree)

    return each(in_volume, list(zip(volumes, bands, found, strict=True)))


def _in_volume(volume: Volume, band: Band, fitted: FittedTree) -> BandTree:
    """Make the faces of a tree's leaves smooth, and find what it comes to in the volume."""
    from tinc_codec.fit import faces

    shape, depth = band.values.shape, len(band.above.splits)
    tree = section.from_bytes(fitted.tree, shape, most_parameters(fitted.weights))
    parameters = weights.unpack(fitted.weights, network.layout(tree))
    said = current_engine().evaluate_grid(tree, parameters, [np.arange(n) for n in shape])
    # What is within 0 and 1 in the volume is within 0 and about this in the band.
    top = np.float32(math.sqrt(2) ** sum(split.bit_count() for split in band.above.splits))
    smoothing = faces.choose(tree.geometry, said / top, band.values / top, band.weight)
    tree = replace(tree, smoothing=smoothing, halvings=depth)
    said = made_smooth(tree, said)
    return BandTree(
        sections={SectionKind.TREE: section.to_bytes(tree), SectionKind.WEIGHTS: fitted.weights},
        said=_synthesised(said, band.above).reshape(volume.unit.shape) if depth else said,
        plan=band.plan,
    )


def _synthesised(said: Float32Array, above: TransformPlan) -> Float32Array:
    """Return the volume of a low-pass band, all finer bands 0."""
    from tinc_codec.stream.residual.wavelets import wavelet

    low = said.reshape(above.shapes[-1])
    nothing = wavelet.Bands(plan=above, room=np.zeros(math.prod(above.shapes[0]), np.int32))
    return wavelet.inverse(
        nothing, wavelet.whole(above.shapes[0]), (np.float32(1), np.float32(0)), each,
        (len(above.splits), lambda: low),
    )  # fmt: skip
