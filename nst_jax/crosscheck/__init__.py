"""The comparison with the PyTorch program, number by number."""
