"""The comparison with the same program in PyTorch, number by number."""
