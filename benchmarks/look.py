"""Compare the looks of sizes: `python -m benchmarks.look small.png large.png larger.png`.

Scales every picture down to the size of the first, and prints how far its features are from those
of the first. A picture of `--other`, such as the content image, shows what a large distance is.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.console import Console

from nst_jax.cli.flags import Parser, exit_code
from nst_jax.io.images import load_image
from nst_jax.network.vgg import NETWORKS, VGG, build_vgg
from nst_jax.weights.sources import find_weights

PROGRAM = "benchmarks.look"
LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")


def distances(
    network: VGG, picture: Float[np.ndarray, "h w 3"], like: Float[np.ndarray, "h w 3"]
) -> Mapping[str, float]:
    """Return ‖F − F'‖/‖F'‖ of the pixels and of each layer's map, for two pictures of one size."""
    ours, theirs = (
        {"pixels": jnp.asarray(image), **network(jnp.asarray(image), LAYERS)}
        for image in (picture, like)
    )
    norm = jnp.linalg.norm
    flat: Mapping[str, Array] = {name: (ours[name] - theirs[name]).ravel() for name in theirs}
    return {name: float(norm(x) / norm(theirs[name].ravel())) for name, x in flat.items()}


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Compare pictures of different sizes.")
    add = parser.add_argument
    add("pictures", nargs="+", metavar="PATH", help="the smallest first")
    add("--other", nargs="*", default=[], metavar="PATH", help="other pictures, for comparison")
    add("--weights", default="auto", metavar="W", help="as in the main job (default: auto)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    flags = _parser().parse_args(argv)
    return exit_code(PROGRAM, lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    first = load_image(flags.pictures[0])
    weights = find_weights(flags.weights)
    kind = NETWORKS[weights.network]
    network = build_vgg(kind, weights.params, pooling="max", padding="replicate")
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{'':<28}" + "".join(f"{name:>9}" for name in ("pixels", *LAYERS)))
    for path in (*flags.pictures[1:], *flags.other):
        found = distances(network, load_image(path, shape=first.shape[:2]), first)
        console.print(f"{path[-27:]:<28}" + "".join(f"{x:>9.3f}" for x in found.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
