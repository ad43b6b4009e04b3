"""Benchmarks of the package: ``python -m benchmarks.<name>``, from the repository's root."""
