"""Triton kernels: a tile of voxels through its leaf's whole path, weights and activations on chip.

The only modules of the engine that import triton when they are loaded; they are imported inside
functions alone. :mod:`tinc_codec.engines.gpu.trust` compares the kernels with torch's products
before it trusts them.
"""
