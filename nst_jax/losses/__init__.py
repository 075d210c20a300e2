"""The content, style and regularization terms, and the scalar loss that sums them."""
