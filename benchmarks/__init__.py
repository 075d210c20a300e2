"""Measure a step here and in PyTorch: `python -m benchmarks.speed`, `benchmarks.profile`.

Not installed with the package. A worker process imports from here only what its framework needs.
"""
