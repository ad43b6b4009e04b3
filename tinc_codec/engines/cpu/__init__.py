"""The CPU engine: numba kernels over tiles of voxels, serial and free of the GIL."""
