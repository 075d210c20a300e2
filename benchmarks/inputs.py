"""What all modes are given, as files: `python -m benchmarks.inputs REQUEST`.

In a process of its own, so that the driver stays without a framework and the workers start equal.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from nst_jax.flags import exit_code
from nst_jax.images import load_image
from nst_jax.weights import find_weights, to_state_dict
from nst_jax.weights_file import FORMAT, save_weights

# Of the weights' file, whose source has no known content.
METADATA = {"format": FORMAT, "source": "benchmark", "source_sha256": "0" * 64}


def prepare(request: dict[str, Any]) -> None:
    """Write both images at all sizes, square, and the weights for both frameworks.

    Args:
      request: "folder", "sizes", "content", "style" (paths or None: drawn), "weights" (as in the
        main job).

    Raises:
      InputError: if an image or the weights cannot be had.
    """
    folder = Path(request["folder"])
    for seed, role in enumerate(("content", "style")):
        for size in request["sizes"]:
            path = request[role]
            shape = (size, size)
            image = load_image(path, shape=shape) if path else drawn(seed, size)
            np.save(folder / f"{role}-{size}.npy", image)
    weights = find_weights(request["weights"])
    save_weights(folder / "jax.safetensors", weights.params, METADATA)
    safetensors.numpy.save_file(to_state_dict(weights.params), folder / "torch.safetensors")
    print(json.dumps({"weights": weights.origin}))


def drawn(seed: int, size: int) -> np.ndarray:
    """Draw waves of all scales: smooth as a photograph, and without flat places."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    image = np.zeros((size, size, 3))
    for amplitude in np.geomspace(0.2, 0.02, 12):
        frequency, phase = 0.03 / amplitude * rng.normal(size=2), rng.uniform(0, 6, 3)
        image += amplitude * np.sin((frequency[0] * x + frequency[1] * y)[..., None] + phase)
    return np.clip(0.5 + image, 0, 1).astype(np.float32)


def _main() -> int:
    prepare(json.loads(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("benchmarks.speed", _main))
