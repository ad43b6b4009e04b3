"""The forms that the values of a chunk may take, each scored by decoding it; the best is kept.

- tree: the whole budget for a tree of networks;
- wavelet: the whole budget for wavelet coefficients;
- tree and wavelet: a share for a tree, mostly of a low-pass band, the rest for what it leaves;
- either of these two with a filter of the decoded values, where that is worth its bytes;
- cosine: a few low-order terms, where the budget is very small;
- wavelet and correction, or correction alone, where every voxel is to be within a bound, or where
  that is much better than the others.

``choice`` is the way in. ``volume`` is what it takes, ``candidate`` a form of that, and ``scoring``
how good it is.
"""
