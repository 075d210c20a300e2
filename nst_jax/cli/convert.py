"""The command line of the conversion: `python convert_weights.py`, or `nst-jax-convert`."""

import argparse
import sys
from collections.abc import Sequence
from os.path import expanduser  # the shell leaves the ~ of --output=~/w
from pathlib import Path
from types import ModuleType
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np

from nst_jax.cli.flags import EXIT_FAILURE, Parser, download_bar, exit_code
from nst_jax.cli.output import make_console
from nst_jax.errors import InputError
from nst_jax.io.files import check_writable
from nst_jax.network.architecture import ARCHITECTURES, NetworkName
from nst_jax.network.vgg import NETWORKS, VGG, build_vgg
from nst_jax.weights.converted_file import Weights
from nst_jax.weights.download import DownloadError, check_hash
from nst_jax.weights.sources import (
    DTypeName,
    cached_weights,
    convert,
    fetch_pretrained,
    save_converted,
)
from nst_jax.weights.state_dict import Layout

PROGRAM = "nst-jax-convert"
# Largest relative error ‖a − b‖/‖b‖ of a tap that the proof accepts. float32 rounding through 16
# layers gives about 1e-6; a wrong layout or key gives about 1. float16 and bfloat16 weights have 11
# and 8 bits, so each layer adds about 3e-4 and 2e-3.
_BUDGET = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 5e-2}


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM, description="Convert torch's weights of VGG-19 or VGG-16 for nst-jax."
    )
    parser.add_argument(
        "--network",
        choices=get_args(NetworkName),
        help="network of the weights (default: the file's; for pretrained: vgg19)",
    )
    parser.add_argument(
        "--source",
        default="pretrained",
        metavar="pretrained|FILE",
        help="torchvision's weights IMAGENET1K_V1, or a state dict file of your own "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--layout",
        default="torchvision",
        choices=get_args(Layout),
        help="input that the source expects; caffe: BGR, 0 to 255, mean subtracted "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=expanduser, metavar="FILE", help="file to write (default: in the cache)"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=get_args(DTypeName),
        help="type of the stored weights (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    flags = _parser().parse_args(argv)
    return exit_code(PROGRAM, lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    output = Path(flags.output or cached_weights(flags.network or "vgg19"))
    if not flags.output:
        output.parent.mkdir(parents=True, exist_ok=True)
    elif output.suffix != ".safetensors":
        raise InputError(f"--output {output}: the name must end in .safetensors")
    check_writable(output, what="converted weights")
    reference = _reference()
    source = _source(flags.source, flags.network or "vgg19", flags.layout, reference)
    weights, metadata = convert(
        source, network=flags.network, layout=flags.layout, dtype=flags.dtype
    )
    output = output if flags.output else cached_weights(weights.network)
    print(f"{source} is {weights.title}")
    if reference is None:
        print("proof skipped: it runs the torch network, and torch is not installed")
    elif not _prove(weights, source, flags.layout, _BUDGET[flags.dtype], reference):
        print(f"{PROGRAM}: the proof failed; nothing was written", file=sys.stderr)
        return EXIT_FAILURE
    save_converted(output, weights, metadata)
    print(f"wrote {output}")
    return 0


def _reference() -> ModuleType | None:
    try:
        from nst_jax import pytorch_reference
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        return None
    return pytorch_reference


def _source(source: str, network: NetworkName, layout: str, reference: ModuleType | None) -> Path:
    if source != "pretrained":
        return Path(source).expanduser()
    if layout != "torchvision":
        raise InputError(f"--source pretrained is in the layout torchvision, not {layout}")
    if reference is not None:
        try:
            path: Path = reference.download_pretrained(network)
        except ModuleNotFoundError:
            pass  # torch without torchvision: `fetch_pretrained` gets the same file
        except Exception as error:  # of any type, if a file in torch's cache is damaged
            reason = " ".join(str(error).split())
            raise DownloadError(f"torchvision cannot get its weights: {reason}") from error
        else:
            check_hash(path)  # torchvision checks only what it has just downloaded
            return path
    with download_bar(make_console(stderr=True)) as bar:
        return fetch_pretrained(network, progress=bar)


def _prove(
    weights: Weights, source: Path, layout: str, budget: float, reference: ModuleType
) -> bool:
    """Run both networks on one random image; print and judge the relative error of every tap."""
    image = np.random.default_rng(0).random((1, 48, 64, 3), np.float32)
    name = weights.network
    state = reference.load_state(source, name=name)
    expected = reference.all_taps(state, image, name=name, layout=layout)
    with jax.default_matmul_precision("highest"):
        network = build_vgg(NETWORKS[name], weights.params)
        actual = jax.jit(VGG.__call__)(network, jnp.asarray(image))
    worst = 0.0
    for tap, theirs in zip(ARCHITECTURES[name].taps, expected, strict=True):
        error = float(np.linalg.norm(np.asarray(actual[tap]) - theirs) / np.linalg.norm(theirs))
        worst = max(worst, error if np.isfinite(error) else np.inf)
        print(f"{tap:8} {error:.2e}")
    verdict = "within" if worst <= budget else "OVER"
    print(f"largest relative error against torch: {worst:.2e}, {verdict} the budget of {budget:g}")
    return worst <= budget


if __name__ == "__main__":
    sys.exit(main())
