"""A small volume, a tree over it and a quick recipe, for the tests of the fit."""

from __future__ import annotations

import numpy as np

from tinc_codec.fit.recipe import Recipe
from tinc_codec.tree.allocation import geometry_of
from tinc_codec.tree.network import Tree, layout

SHAPE = (24, 20)
GEOMETRY = geometry_of(SHAPE, 2, "global")
TREE = Tree(geometry=GEOMETRY, widths=tuple(np.full((n, 2), 8) for n in GEOMETRY.node_counts))
TABLE = layout(TREE)
Y, X = np.meshgrid(np.linspace(0, 1, 24), np.linspace(0, 1, 20), indexing="ij")
UNIT = (0.5 + 0.3 * np.sin(9 * X + 4 * Y) + 0.1 * (X > Y)).astype(np.float32)

RECIPE = Recipe(
    optimiser="adam",
    rate=1e-2,
    milestones=None,
    steps=150,
    samples=480,
    frequencies=((10.0, 10.0),),
    paper=False,
)
