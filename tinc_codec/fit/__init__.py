"""The encoder's fits: all gradient descent and least squares of the package.

Trees are fitted by the first, post-filters and predictions by the second; steps and plans of
transforms are tried. What is found is coded by stream/, and decoding imports none of this.
"""
