"""What only a GPU can show, in slices of known cost: `python -m benchmarks.gpu` (docs/gpu.md)."""
