"""The octree: boxes, layer widths, network records."""
