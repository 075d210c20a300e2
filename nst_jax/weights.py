"""Trained weights: from a torch state dict to checked, named arrays in a safetensors file.

Needs no torch. The map from torch's keys to ours is derived from the table in
`nst_jax.architecture`, and a conversion is all or nothing: every convolution of the source is used,
every parameter is filled, or one error lists what is wrong.
"""

import importlib.metadata
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
import platformdirs
from jax.typing import DTypeLike

from nst_jax.architecture import CONVS, TAPS
from nst_jax.conv import Convolution
from nst_jax.download import DownloadError, Progress, check_hash, download, sha256_of
from nst_jax.errors import InputError
from nst_jax.pooling import Pooling
from nst_jax.torch_file import read_state_dict
from nst_jax.untrained import untrained_params
from nst_jax.vgg import MEAN, STD, VGG19, Padding, build_vgg19
from nst_jax.weights_file import (
    CONVERT_COMMAND,
    FORMAT,
    Params,
    Weights,
    is_converted,
    load_weights,
    read_safetensors,
    save_weights,
)

Layout = Literal["torchvision", "caffe"]
DTypeName = Literal["float32", "bfloat16", "float16"]

# torchvision's VGG19_Weights.IMAGENET1K_V1 (2017); the name ends in the start of its SHA-256.
PRETRAINED_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
# The original network's input: BGR, 0 to 255, minus this mean (given here as RGB).
_CAFFE_MEAN = (123.68, 116.779, 103.939)


def cache_dir() -> Path:
    """Return the folder for converted weights: NST_JAX_CACHE, or the user's cache folder."""
    return Path(os.environ.get("NST_JAX_CACHE") or platformdirs.user_cache_dir("nst_jax"))


def cached_weights() -> Path:
    """Return where converted weights are kept unless another place is named."""
    return cache_dir() / "vgg19.safetensors"


def torchvision_keys() -> dict[str, str]:
    """Map "conv1_1" to "features.0" and so on: the position in torchvision's nn.Sequential."""
    keys, position = {}, 0
    for conv in CONVS:
        position += conv.index == 1 and conv.block > 1  # the pooling before this block
        keys[conv.name] = f"features.{position}"
        position += 2  # the convolution and its ReLU
    return keys


def from_state_dict(
    state: Mapping[str, np.ndarray], *, layout: Layout = "torchvision", source: str = "state dict"
) -> Params:
    """Turn a torch state dict of VGG-19 into named float32 arrays.

    Args:
      state: arrays under torchvision's keys, with or without the classifier; for the layout caffe
        "conv1_1.weight" and so on is understood too.
      layout: what input the first convolution expects. "torchvision": RGB in [0, 1], normalized
        with ImageNet's mean and deviation. "caffe": BGR in [0, 255] minus the mean, as the original
        weights of Simonyan and Zisserman; that convention is folded into conv1_1. Only where the
        image's border is padded does the folded network differ, by less than half a gray level:
        the padding is ImageNet's mean color instead of the original's.
      source: what the errors call the state dict.

    Raises:
      InputError: listing every key that is missing, unused, or holds a wrong shape, type or value.
    """
    keys = torchvision_keys()
    if layout == "caffe" and "conv1_1.weight" in state:
        keys = {conv.name: conv.name for conv in CONVS}
    wanted = {
        f"{keys[conv.name]}.{leaf}": shape
        for conv in CONVS
        for leaf, shape in (
            ("weight", (conv.outputs, conv.inputs, 3, 3)),
            ("bias", (conv.outputs,)),
        )
    }
    faults = [f"{key} is missing" for key in wanted if key not in state]
    ignored = re.compile(r"classifier\.|fc\d")
    faults += [f"{key} is unknown" for key in state if key not in wanted and not ignored.match(key)]
    for key, shape in wanted.items():
        if key not in state:
            continue
        if state[key].shape != shape:
            faults.append(f"{key} has shape {state[key].shape}, not {shape}")
        elif not jnp.issubdtype(state[key].dtype, jnp.floating):
            faults.append(f"{key} holds {state[key].dtype}, not floats")
        elif not np.isfinite(state[key].astype(np.float32)).all():
            faults.append(f"{key} holds values that are not finite")
    if faults:
        hint = ""
        if layout == "torchvision" and "conv1_1.weight" in state:
            hint = f" (for this layout: {CONVERT_COMMAND} --layout caffe --source FILE)"
        raise InputError(
            f"{source} is not a VGG-19 in the layout {layout}{hint}:\n  " + "\n  ".join(faults)
        )
    params: Params = {}
    for conv in CONVS:
        kernel = state[f"{keys[conv.name]}.weight"].astype(np.float64)
        bias = state[f"{keys[conv.name]}.bias"].astype(np.float64)
        if layout == "caffe" and conv is CONVS[0]:
            kernel, bias = _fold_caffe_input(kernel, bias)
        params[f"{conv.name}.kernel"] = np.ascontiguousarray(
            kernel.transpose(2, 3, 1, 0).astype(np.float32)  # OIHW to HWIO
        )
        params[f"{conv.name}.bias"] = bias.astype(np.float32)
    return params


def to_state_dict(params: Params) -> dict[str, np.ndarray]:
    """Invert `from_state_dict`: float32 arrays under torchvision's keys, kernels as OIHW."""
    state = {}
    for name, key in torchvision_keys().items():
        kernel = np.asarray(params[f"{name}.kernel"], np.float32)
        state[f"{key}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        state[f"{key}.bias"] = np.array(params[f"{name}.bias"], np.float32)
    return state


def _fold_caffe_input(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let conv1_1 take z = (rgb - MEAN) / STD where it took 255 bgr - mean."""
    scale = 255 * np.asarray(STD)
    shift = 255 * np.asarray(MEAN) - np.asarray(_CAFFE_MEAN)
    rgb = kernel[:, ::-1]
    return rgb * scale[:, None, None], bias + (rgb * shift[:, None, None]).sum(axis=(1, 2, 3))


def read_source(path: Path) -> Mapping[str, np.ndarray]:
    """Read a state dict from a torch file (either format) or a safetensors file.

    Raises:
      InputError: if the file is neither.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return read_state_dict(path)


def convert(
    path: Path, *, layout: Layout = "torchvision", dtype: DTypeName = "float32"
) -> tuple[Params, dict[str, str]]:
    """Convert a state-dict file; return the parameters and the metadata to save with them.

    Args:
      path: see `read_source`.
      layout: see `from_state_dict`.
      dtype: what to store the parameters in.

    Raises:
      InputError: if the file cannot be read or is not a VGG-19; see `from_state_dict`.
    """
    params = from_state_dict(read_source(path), layout=layout, source=str(path))
    with np.errstate(over="ignore"):
        params = {name: array.astype(jnp.dtype(dtype)) for name, array in params.items()}
    overflows = [name for name, array in params.items() if not jnp.isfinite(array).all()]
    if overflows:
        raise InputError(
            f"{path} has values beyond {dtype}'s range in {', '.join(overflows)}; "
            "convert to bfloat16 or float32"
        )
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "safetensors")}
    return params, {
        "format": FORMAT,
        "source": path.name,
        "source_sha256": sha256_of(path),
        "layout": layout,
        "dtype": dtype,
        "versions": json.dumps(versions),
    }


def _torch_hub_copy(name: str) -> Path | None:
    """Find the file where torchvision keeps its downloads, if it is the right one."""
    home = os.environ.get("TORCH_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch"
    )
    path = Path(home, "hub", "checkpoints", name).expanduser()
    try:
        check_hash(path)
    except (OSError, DownloadError):
        return None
    return path


def fetch_pretrained(*, progress: Progress | None = None) -> Path:
    """Return torchvision's file, from its own cache or downloaded into ours.

    NST_JAX_PRETRAINED_URL names a mirror; the file there may be another, as long as its name ends
    in the start of its SHA-256.

    Raises:
      DownloadError: if it cannot be had.
    """
    url = os.environ.get("NST_JAX_PRETRAINED_URL") or PRETRAINED_URL
    copy = _torch_hub_copy(url.rsplit("/", 1)[-1])
    return copy or download(url, cache_dir() / "downloads", progress=progress)


def pretrained_weights(*, deepest: str = TAPS[-1], progress: Progress | None = None) -> Weights:
    """Return the cached conversion; where there is none, download, convert and cache it.

    Args:
      deepest: see `find_weights`.
      progress: see `find_weights`.

    Raises:
      DownloadError: if there is none and torchvision's file cannot be had.
      InputError: if the cached file is truncated or altered.
    """
    path = cached_weights()
    if not path.exists():
        source = fetch_pretrained(progress=progress)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_weights(path, *convert(source))
        if source.is_relative_to(cache_dir()):
            source.unlink()  # half a gigabyte, of which nothing more is needed
    return load_weights(path, deepest=deepest)


def find_weights(
    spec: str, *, seed: int = 0, deepest: str = TAPS[-1], progress: Progress | None = None
) -> Weights:
    """Get the weights that a user names.

    Args:
      spec: "pretrained": see `pretrained_weights`; it fails where they cannot be had. "auto": the
        same, but goes on with an untrained network then, and says why. "untrained" or
        "untrained:SEED". Else the path of a file: converted, or a torch state dict in torchvision's
        layout, which is converted on the fly.
      seed: of the untrained network, unless `spec` names one.
      deepest: the last tap that is wanted; parameters behind it may be left out, unread.
      progress: called while downloading.

    Raises:
      InputError: if they cannot be had, or are not what they should be.
    """
    if spec == "auto":
        try:
            return pretrained_weights(deepest=deepest, progress=progress)
        except DownloadError as error:
            return replace(_untrained(seed), reason=str(error))
    if spec == "pretrained":
        return pretrained_weights(deepest=deepest, progress=progress)
    kind, colon, number = spec.partition(":")
    if kind == "untrained":
        if colon and not re.fullmatch(r"[0-9]{1,18}", number):
            raise InputError(f"{spec}: the seed must be a whole number, as in untrained:7")
        return _untrained(int(number) if colon else seed)
    path = Path(spec).expanduser()
    if not path.exists():
        raise InputError(
            f"no weights at {spec}; allowed are auto, pretrained, untrained[:SEED] or a file"
        )
    if is_converted(path):
        return load_weights(path, deepest=deepest)
    return Weights(convert(path)[0], trained=True, origin=f"{path} (converted on the fly)")


def _untrained(seed: int) -> Weights:
    return Weights(untrained_params(seed), trained=False, origin=f"untrained, seed {seed}")


def load_vgg19(
    weights: str = "pretrained",
    *,
    pooling: Pooling = "average",
    pool_scale: float = 1.0,
    padding: Padding = "zeros",
    dtype: DTypeLike = jnp.float32,
    conv: Convolution = "direct",
) -> VGG19:
    """Return the network with the named weights.

    Args:
      weights: see `find_weights`. The default is strict: it fails without trained weights.
      pooling: see `VGG19`.
      pool_scale: see `VGG19`.
      padding: see `VGG19`.
      dtype: see `VGG19`; the parameters themselves are float32.
      conv: see `VGG19`.

    Warns:
      UserWarning: if "auto" goes on with an untrained network, and why.

    Raises:
      InputError: if the weights cannot be had.
    """
    found = find_weights(weights)
    if found.reason:
        warnings.warn(f"the network is not trained: {found.reason}", stacklevel=2)
    return build_vgg19(
        found.params,
        pooling=pooling,
        pool_scale=pool_scale,
        padding=padding,
        dtype=dtype,
        conv=conv,
    )
