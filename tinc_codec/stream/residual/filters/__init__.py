"""The FILTER section: what quantisation has done to the decoded values, undone in part."""
