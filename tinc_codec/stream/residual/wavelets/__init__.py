"""The WAVELET section: a transform, and its quantised coefficients as segments of bits."""
