"""Convert torchvision's VGG-19 weights: `python convert_weights.py`; --help lists the flags."""

import sys

from nst_jax.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
