"""The experiments of ``python -m benchmarks.run``, a module each."""
