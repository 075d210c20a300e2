"""Write the inputs of all modes to files: `python -m benchmarks.inputs REQUEST`.

This runs in a process of its own: the driver loads no framework, and all workers start equal.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from benchmarks.work import NETWORK
from nst_jax.cli.flags import exit_code
from nst_jax.errors import InputError
from nst_jax.io.images import draw_image, load_image
from nst_jax.weights.converted_file import FORMATS, save_weights
from nst_jax.weights.sources import find_weights
from nst_jax.weights.state_dict import to_state_dict

# Metadata of the weights file; the digest of its source is not known.
METADATA = {"format": FORMATS[NETWORK], "source": "benchmark", "source_sha256": "0" * 64}


def prepare(request: dict[str, Any]) -> None:
    """Write both images at all sizes, square, and the weights for both frameworks.

    Args:
      request: "folder", "sizes", "content", "style" (paths; None: a drawn image), "weights" (as
        in the main job).

    Raises:
      InputError: if an image or the weights cannot be had.
    """
    folder = Path(request["folder"])
    for seed, role in enumerate(("content", "style")):
        for size in request["sizes"]:
            path = request[role]
            shape = (size, size)
            image = load_image(path, shape=shape) if path else draw_image(seed, *shape)
            np.save(folder / f"{role}-{size}.npy", image)
    weights = find_weights(request["weights"])
    if weights.network != NETWORK:
        raise InputError(f"{request['weights']} is {weights.title}; the benchmark takes {NETWORK}")
    save_weights(folder / "jax.safetensors", weights.params, METADATA)
    state = to_state_dict(weights.params, NETWORK)
    safetensors.numpy.save_file(state, folder / "torch.safetensors")
    print(json.dumps({"weights": weights.origin}))


def _main() -> int:
    prepare(json.loads(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("benchmarks.speed", _main))
