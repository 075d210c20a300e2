"""Where a network's parameters come from: files, downloads, packages, a seed."""
