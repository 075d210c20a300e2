"""The file of converted weights: safetensors with a digest of each array.

A network that ends early reads and checks only the arrays that it needs.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from nst_jax.errors import InputError
from nst_jax.io.arrays import digest_array
from nst_jax.io.files import atomic_write
from nst_jax.network.architecture import ARCHITECTURES, NetworkName

Params = dict[str, np.ndarray]

# The one command that gets the real weights, wherever the package is installed.
CONVERT_COMMAND = "nst-jax-convert"
# The format that the metadata of a file names.
FORMATS: Mapping[NetworkName, str] = MappingProxyType(
    {name: f"nst_jax.{name}.2" for name in ARCHITECTURES}
)
_FAMILY = "nst_jax.vgg"
_REPAIR = f"delete it and convert again: {CONVERT_COMMAND}"
# In the metadata: a digest of each array, and one of all the metadata.
_ARRAYS, _SEAL = "arrays", "sha256"
# The network's `mean_activations`; files of earlier versions lack them.
MEANS = "mean_activations"
# The element types of safetensors that a state dict may hold.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
}


@dataclass(frozen=True)
class Weights:
    """Parameters of a network and where they come from.

    Attributes:
      params: an array for each name of `Architecture.parameter_shapes`, or of those up to a tap.
      network: the network of these parameters.
      trained: False for an untrained network.
      origin: the file or the seed, for messages.
      reason: why another or an untrained network was taken in place of the requested one.
      means: the network's `mean_activations`, if they are known.
      digests: the digest of each array, if they are known.
    """

    params: Params
    network: NetworkName
    trained: bool
    origin: str
    reason: str | None = None
    means: Sequence[float] | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The network's name in messages."""
        return ARCHITECTURES[self.network].title

    def digest(self, deepest: str) -> str:
        """Return a digest of the parameters up to a tap; it does not depend on their origin."""
        names = sorted(self.params.keys() & ARCHITECTURES[self.network].parameter_shapes(deepest))
        found = [
            self.digests.get(name) or digest_array(np.ascontiguousarray(self.params[name]))
            for name in names
        ]
        return hashlib.sha256("".join(found).encode()).hexdigest()


def save_weights(path: Path, params: Params, metadata: Mapping[str, str]) -> None:
    """Write parameters and metadata, with digests of both, as safetensors; all or nothing."""
    # safetensors writes the memory of an array, and ignores its strides.
    params = {name: np.asarray(array, order="C") for name, array in params.items()}
    digests = {name: digest_array(array) for name, array in params.items()}
    sealed = {**metadata, _ARRAYS: json.dumps(digests)}
    sealed[_SEAL] = _seal(sealed)
    with atomic_write(path) as temporary:
        safetensors.numpy.save_file(params, temporary, metadata=sealed)


def load_weights(path: Path, *, deepest: str | None = None) -> Weights:
    """Load what `save_weights` wrote, and check that nothing of it has changed.

    Args:
      path: of the file.
      deepest: the last wanted tap, by default the network's. Parameters behind it are neither read
        nor checked.

    Raises:
      InputError: if the file is missing, truncated, altered, or of another kind.
    """
    metadata = _read_metadata(path)
    seal = metadata.pop(_SEAL, None)
    if not metadata.get("format", "").startswith(_FAMILY):
        raise InputError(
            f"{path} holds no converted weights; convert it: {CONVERT_COMMAND} --source {path}"
        )
    network = next((name for name, text in FORMATS.items() if text == metadata["format"]), None)
    if network is None:
        raise InputError(f"{path} was written by another version of this program; {_REPAIR}")
    altered = InputError(f"{path} is altered: its content does not match its digest; {_REPAIR}")
    if seal != _seal(metadata):
        raise altered
    digests = json.loads(metadata[_ARRAYS])
    table = ARCHITECTURES[network]
    if set(digests) != set(table.parameter_shapes()):
        raise altered
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            params = {name: file.get_tensor(name) for name in table.parameter_shapes(deepest)}
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{path} is truncated or altered ({error}); {_REPAIR}") from error
    if any(digest_array(array) != digests[name] for name, array in params.items()):
        raise altered
    origin = f"{path} (from {metadata['source']}, SHA-256 {metadata['source_sha256'][:8]})"
    means = json.loads(metadata[MEANS]) if MEANS in metadata else None
    return Weights(params, network, trained=True, origin=origin, means=means, digests=digests)


def is_converted(path: Path) -> bool:
    """Say whether `save_weights` wrote a file, by the format in its metadata."""
    return path.suffix == ".safetensors" and _read_metadata(path).get("format", "").startswith(
        _FAMILY
    )


def read_safetensors(path: Path) -> Params:
    """Read all arrays of a file.

    Raises:
      InputError: if the file is missing or truncated, or holds other numbers than floats.
    """
    _read_metadata(path)
    # safetensors.numpy.load_file does not know bfloat16.
    try:
        return {
            name: np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in safetensors.deserialize(path.read_bytes())
        }
    except KeyError as error:
        raise InputError(f"{path} holds numbers of type {error}, not floats") from None
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{path} is truncated or altered ({error}); {_REPAIR}") from error


def _seal(metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode()).hexdigest()


def _read_metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise InputError(f"{path}: {'this is a folder' if path.is_dir() else 'no such file'}")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is truncated or altered ({error}); {_REPAIR}") from error
