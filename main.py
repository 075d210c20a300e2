"""Neural style transfer: `python main.py --content=PATH --style=PATH`; --help lists the flags."""

import sys

from nst_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
