"""Measurements that need a GPU, in slices of known cost: `python -m benchmarks.gpu` (docs/gpu.md)."""
