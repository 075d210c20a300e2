"""Pictures, arrays, files and checkpoints."""
