"""What :mod:`tinc_codec.decode` is made of: the way back from a payload to voxels.

``opened`` takes payloads apart, ``selection`` tells which voxels are asked for. Then, in the order
of the data: ``windowed`` (sections that decode a window at a time), ``smoothed`` (faces of trees)
and ``filtered``. ``voxels`` puts these together for a chunk's box, and ``arrays`` adds what is
around the box. ``overview``, ``together`` (many payloads at once, on a GPU) and ``cache`` (chunks
read lately) are other ways to an array.
"""
