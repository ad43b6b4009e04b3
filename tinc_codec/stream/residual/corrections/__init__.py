"""The CORRECTION section: integers that bring every voxel within a bound."""
