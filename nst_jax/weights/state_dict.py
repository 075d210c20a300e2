"""torch's state dicts of VGG-19 and VGG-16: which of them one is, and its arrays by our names.

The map from torch's keys to ours is derived from the table in `nst_jax.network.architecture`, and a
conversion is all or nothing: every convolution of the source is used, every parameter is filled, or
one error lists what is wrong.
"""

import re
from collections.abc import Mapping
from typing import Literal, TypeVar

import jax.numpy as jnp
import numpy as np

from nst_jax.errors import InputError
from nst_jax.network.architecture import ARCHITECTURES, Architecture, NetworkName
from nst_jax.network.vgg import MEAN, STD
from nst_jax.weights.converted_file import CONVERT_COMMAND, Params

Layout = Literal["torchvision", "caffe"]

# The original network's input: BGR, 0 to 255, minus this mean (given here as RGB).
_CAFFE_MEAN = (123.68, 116.779, 103.939)
# How conv1_1's second filter weighs the channels of its top left pixel in the original networks,
# which is how they are told from others of the same keys and shapes.
_ORIGINAL = {"vgg19": (0.0956, 0.0336, -0.0842), "vgg16": (0.1173, 0.0209, -0.1727)}
# Keys of the classifier, which is not used: torchvision's, Caffe's, timm's.
_CLASSIFIER = re.compile(r"classifier\.|fc\d|pre_logits\.|head\.")
_Array = TypeVar("_Array")


def torchvision_keys(architecture: Architecture) -> dict[str, str]:
    """Map "conv1_1" to "features.0" and so on: the position in torchvision's nn.Sequential."""
    keys, position = {}, 0
    for conv in architecture.convs:
        position += conv.pooled
        keys[conv.name] = f"features.{position}"
        position += 2  # the convolution and its ReLU
    return keys


def from_state_dict(
    state: Mapping[str, np.ndarray],
    *,
    network: NetworkName | None = None,
    layout: Layout = "torchvision",
    source: str = "state dict",
) -> tuple[NetworkName, Params]:
    """Turn a torch state dict of VGG-19 or VGG-16 into named float32 arrays.

    Args:
      state: arrays under torchvision's keys, with or without the classifier (timm's too), the
        prefix "module." of a network that was trained on several devices, and "features."; for the
        layout caffe "conv1_1.weight" and so on is understood too.
      network: which one it must be; None: either, as its number of convolutions says.
      layout: what input the first convolution expects. "torchvision": RGB in [0, 1], normalized
        with ImageNet's mean and deviation. "caffe": BGR in [0, 255] minus the mean, as the original
        weights of Simonyan and Zisserman; that convention is folded into conv1_1. Only where the
        image's border is padded does the folded network differ, by less than half a gray level:
        the padding is ImageNet's mean color instead of the original's.
      source: what the errors call the state dict.

    Returns:
      Which network it is, and its parameters.

    Raises:
      InputError: if it is another network than the one wanted, or has batch norm; else listing
        every key that is missing, unused, or holds a wrong shape, type or value.
    """
    state = _torchvision_names(state)
    table = _recognize(state, network, source)
    keys = torchvision_keys(table)
    if layout == "caffe" and "conv1_1.weight" in state:
        keys = {conv.name: conv.name for conv in table.convs}
    if faults := _faults(state, table, keys):
        hint = ""
        if layout == "torchvision" and "conv1_1.weight" in state:
            hint = f" (for this layout: {CONVERT_COMMAND} --layout caffe --source FILE)"
        raise InputError(
            f"{source} is not a {table.title} in the layout {layout}{hint}:\n  "
            + "\n  ".join(faults)
        )
    if layout == "torchvision" and _is_original(state[f"{keys['conv1_1']}.weight"], table):
        raise InputError(
            f"{source} is the original {table.title}, whose input is BGR in [0, 255]; convert it: "
            f"{CONVERT_COMMAND} --layout=caffe --source={source}"
        )
    params: Params = {}
    for conv in table.convs:
        kernel = state[f"{keys[conv.name]}.weight"].astype(np.float64)
        bias = state[f"{keys[conv.name]}.bias"].astype(np.float64)
        if layout == "caffe" and conv is table.convs[0]:
            kernel, bias = _fold_caffe_input(kernel, bias)
        params[f"{conv.name}.kernel"] = np.ascontiguousarray(
            kernel.transpose(2, 3, 1, 0).astype(np.float32)  # OIHW to HWIO
        )
        params[f"{conv.name}.bias"] = bias.astype(np.float32)
    return table.name, params


def _is_original(kernel: np.ndarray, architecture: Architecture) -> bool:
    """Say whether the first kernel (OIHW) is the original's, for another input."""
    known = np.asarray(_ORIGINAL[architecture.name])
    distance = np.linalg.norm(kernel[1, :, 0, 0] - known)
    return bool(distance < 0.02 * np.linalg.norm(known))  # it may be stored in half precision


def _torchvision_names(state: Mapping[str, _Array]) -> dict[str, _Array]:
    """Rename the arrays of a wrapped network, or of its convolutions alone; drop the classifier."""
    names = {key: re.sub(r"(^|\.)module\.", r"\1", key) for key in state}
    if all(re.match(r"\d+\.", name) for name in names.values()):
        names = {key: f"features.{name}" for key, name in names.items()}
    return {name: state[key] for key, name in names.items() if not _CLASSIFIER.match(name)}


def _recognize(
    state: Mapping[str, np.ndarray], wanted: NetworkName | None, source: str
) -> Architecture:
    """Tell by the number of convolutions which network it is, or is meant to be."""
    count = sum(array.ndim == 4 for array in state.values())
    found = next((each for each in ARCHITECTURES.values() if len(each.convs) == count), None)
    if any(key.endswith(".running_mean") for key in state):
        title = found.title if found else f"network of {count} convolutions"
        raise InputError(
            f"{source} is a {title} with batch norm, and this program has none; give the weights "
            "of a VGG-19 or VGG-16 without it"
        )
    if wanted and found and found.name != wanted:
        raise InputError(
            f"{source} is a {found.title}, not a {ARCHITECTURES[wanted].title}; "
            f"ask for {found.name}, or give another file"
        )
    return found or ARCHITECTURES[wanted or "vgg19"]


def _faults(
    state: Mapping[str, np.ndarray], table: Architecture, keys: Mapping[str, str]
) -> list[str]:
    """List all that keeps a state dict from being this network's."""
    wanted = {
        f"{keys[conv.name]}.{leaf}": shape
        for conv in table.convs
        for leaf, shape in (
            ("weight", (conv.outputs, conv.inputs, 3, 3)),
            ("bias", (conv.outputs,)),
        )
    }
    faults = [f"{key} is missing" for key in wanted if key not in state]
    faults += [f"{key} is unknown" for key in state if key not in wanted]
    for key, shape in wanted.items():
        if key not in state:
            continue
        if state[key].shape != shape:
            faults.append(f"{key} has shape {state[key].shape}, not {shape}")
        elif not jnp.issubdtype(state[key].dtype, jnp.floating):
            faults.append(f"{key} holds {state[key].dtype}, not floats")
        elif not np.isfinite(state[key].astype(np.float32)).all():
            faults.append(f"{key} holds values that are not finite")
    return faults


def _fold_caffe_input(kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Let conv1_1 take z = (rgb - MEAN) / STD where it took 255 bgr - mean."""
    scale = 255 * np.asarray(STD)
    shift = 255 * np.asarray(MEAN) - np.asarray(_CAFFE_MEAN)
    rgb = kernel[:, ::-1]
    return rgb * scale[:, None, None], bias + (rgb * shift[:, None, None]).sum(axis=(1, 2, 3))


def to_state_dict(params: Params, network: NetworkName) -> dict[str, np.ndarray]:
    """Invert `from_state_dict`: float32 arrays under torchvision's keys, kernels as OIHW."""
    state = {}
    for name, key in torchvision_keys(ARCHITECTURES[network]).items():
        kernel = np.asarray(params[f"{name}.kernel"], np.float32)
        state[f"{key}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        state[f"{key}.bias"] = np.array(params[f"{name}.bias"], np.float32)
    return state
