"""The page as a hosted demo: it listens for other machines, with small limits."""

import sys

from nst_jax.cli.app import main

sys.exit(main(["--host=0.0.0.0", "--max-size=512", "--max-seconds=300", *sys.argv[1:]]))
