"""torch's state dicts of VGG-19 and VGG-16: recognize the network, and rename its arrays.

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
# The top left pixel of conv1_1's second filter in the original networks, by channel. It
# distinguishes these networks from others with the same keys and shapes.
_ORIGINAL = {"vgg19": (0.0956, 0.0336, -0.0842), "vgg16": (0.1173, 0.0209, -0.1727)}
# Keys of the classifier, which is not used: torchvision's, Caffe's, timm's.
_CLASSIFIER = re.compile(r"classifier\.|fc\d|pre_logits\.|head\.")
_MOST_UNKNOWN = 20  # keys that a message lists
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
      state: arrays under torchvision's keys. The classifier (timm's too) and the prefixes
        "features." and "module." (of a network trained on several devices) may be there or not. For
        the layout caffe, the keys may also be "conv1_1.weight" and so on.
      network: the network that it must be; None: either, by its number of convolutions.
      layout: what input the first convolution expects. "torchvision": RGB in [0, 1], normalized
        with ImageNet's mean and deviation. "caffe": BGR in [0, 255] minus the mean, as the original
        weights of Simonyan and Zisserman; the conversion of the input is folded into conv1_1. The
        folded network differs only at the padded border, by less than half a gray level: its
        padding is ImageNet's mean color instead of the original's.
      source: what error messages call the state dict.

    Returns:
      Which network it is, and its parameters.

    Raises:
      InputError: if it is another network than `network` or has batch norm; else if keys are
        missing or unused, or have a wrong shape, type or value. The message lists these keys.
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
    """Say whether the first kernel (OIHW) is the original network's, for BGR in [0, 255]."""
    known = np.asarray(_ORIGINAL[architecture.name])
    distance = np.linalg.norm(kernel[1, :, 0, 0] - known)
    return bool(distance < 0.02 * np.linalg.norm(known))  # it may be stored in half precision


def _torchvision_names(state: Mapping[str, _Array]) -> dict[str, _Array]:
    """Remove "module." from keys, add a missing "features.", and drop the classifier."""
    names = {key: re.sub(r"(^|\.)module\.", r"\1", key) for key in state}
    if all(re.match(r"\d+\.", name) for name in names.values()):
        names = {key: f"features.{name}" for key, name in names.items()}
    return {name: state[key] for key, name in names.items() if not _CLASSIFIER.match(name)}


def _recognize(
    state: Mapping[str, np.ndarray], wanted: NetworkName | None, source: str
) -> Architecture:
    """Recognize the network by its number of convolutions; if unknown, return the wanted one."""
    count = sum(array.ndim == 4 for array in state.values())
    found = next((each for each in ARCHITECTURES.values() if len(each.convs) == count), None)
    if any(key.endswith(".running_mean") for key in state):
        title = found.title if found else f"network of {count} convolutions"
        raise InputError(
            f"{source} is a {title} with batch norm, which is not supported; give the weights of "
            "a VGG-19 or VGG-16 without it"
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
    """List all differences between a state dict and the one that this network needs."""
    wanted = {
        f"{keys[conv.name]}.{leaf}": shape
        for conv in table.convs
        for leaf, shape in (
            ("weight", (conv.outputs, conv.inputs, 3, 3)),
            ("bias", (conv.outputs,)),
        )
    }
    faults = [f"{key} is missing" for key in wanted if key not in state]
    unknown = [key for key in state if key not in wanted]
    shown = (key if key.isprintable() else ascii(key) for key in unknown[:_MOST_UNKNOWN])
    faults += [f"{key:.100} is unknown" for key in shown]
    if more := unknown[_MOST_UNKNOWN:]:
        faults.append(f"{len(more)} more are unknown")
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
    """Return conv1_1 for the input (rgb - MEAN) / STD, given conv1_1 for 255 bgr - mean."""
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
