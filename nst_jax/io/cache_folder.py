"""The folder for what is kept between runs: converted weights and compiled programs."""

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Return the cache folder: NST_JAX_CACHE, or one in the user's cache folder."""
    folder = os.environ.get("NST_JAX_CACHE") or platformdirs.user_cache_dir("nst_jax")
    return Path(folder).expanduser()
