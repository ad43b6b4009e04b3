"""What the package is measured against: other codecs, and the paper's way of training."""
