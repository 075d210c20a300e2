"""Many processes that begin, agree and end together."""
