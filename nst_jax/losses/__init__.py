"""The content, style and regularization terms, and the one scalar loss that they make."""
