"""The trainer: the only optimiser code of the package."""
