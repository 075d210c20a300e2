"""The PyTorch program that this project reimplements, in plain PyTorch.

It is the reference of the cross-checks and shares no numerical code with the JAX side. Its one
subtlety: torchvision's ReLUs work in place, so a convolution's output that is kept in a list is
rectified by the time a loss is computed from it. `extract` relies on that, as the original does.

Importing this module needs torch (`pip install 'nst-jax[convert]'`).
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(1, 3, 1, 1)

# torchvision's configurations "E" and "D": output channels of the convolutions, "P" for pooling.
PLANS = {
    "vgg19": [64, 64, "P", 128, 128, "P", *[256] * 4, "P", *[512] * 4, "P", *[512] * 4],
    "vgg16": [64, 64, "P", 128, 128, "P", *[256] * 3, "P", *[512] * 3, "P", *[512] * 3],
}


def normalize(image: torch.Tensor) -> torch.Tensor:
    """Normalize an NCHW image, sRGB in [0, 1], to the space of the target."""
    return (image - MEAN.to(image.dtype)) / STD.to(image.dtype)


def denormalize(target: torch.Tensor) -> torch.Tensor:
    """Invert `normalize`, without clamping."""
    return target * STD.to(target.dtype) + MEAN.to(target.dtype)


def vgg_features(
    state: Mapping[str, torch.Tensor] | None = None,
    *,
    name: str = "vgg19",
    pooling: str = "average",
) -> nn.Sequential:
    """Build torchvision's `features`, frozen, with the given pooling.

    Args:
      state: torchvision's state dict, with or without the classifier; None keeps random weights.
      name: "vgg19" or "vgg16".
      pooling: "average", "max" or "l2".
    """
    pools = {
        "average": nn.AvgPool2d(2, 2),
        "max": nn.MaxPool2d(2, 2),
        "l2": nn.LPPool2d(2, 2, stride=2),
    }
    modules: list[nn.Module] = []
    channels = 3
    for width in PLANS[name]:
        if isinstance(width, int):
            modules += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        else:
            modules.append(pools[pooling])
    network = nn.Sequential(*modules)
    if state is not None:
        prefix = "features."
        kept = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        network.load_state_dict(kept)
    return network.eval().requires_grad_(False)


def extract(network: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    """Collect the program's five feature maps; the next module rectifies each one in place."""
    maps, layers = [], first_convolutions(network)
    for position, module in enumerate(network):
        x = module(x)
        if position in layers:
            maps.append(x)
        if position > layers[-1]:
            break
    return maps


def first_convolutions(network: nn.Sequential) -> list[int]:
    """Return the positions of conv1_1, conv2_1, conv3_1, conv4_1 and conv5_1."""
    return [0] + [
        position
        for position in range(1, len(network))
        if isinstance(network[position], nn.Conv2d)
        and not isinstance(network[position - 1], nn.ReLU)
    ]


def gram_matrix(features: torch.Tensor) -> torch.Tensor:
    """Return F Fᵀ of a 1 x C x H x W map."""
    _, channels, height, width = features.shape
    flat = features.reshape(channels, height * width)
    return flat @ flat.T


def losses(
    network: nn.Sequential,
    target: torch.Tensor,
    content_maps: list[torch.Tensor],
    style_maps: list[torch.Tensor],
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Compute the content and the style loss of a normalized target, a term for each layer."""
    content, style = [], []
    for f, f_content, f_style in zip(
        extract(network, target), content_maps, style_maps, strict=True
    ):
        _, channels, height, width = f.shape
        content.append(torch.mean((f - f_content) ** 2))
        difference = gram_matrix(f) - gram_matrix(f_style)
        style.append(torch.mean(difference**2) / (channels * height * width))
    return content, style


class Step(NamedTuple):
    """The losses before an update, and the normalized target after it (the live tensor)."""

    content: float
    style: float
    total: float
    target: torch.Tensor


def stylize(
    network: nn.Sequential,
    content: torch.Tensor,
    style: torch.Tensor,
    *,
    steps: int = 2000,
    content_weight: float = 1.0,
    style_weight: float = 100.0,
    optimizer: str = "adam",
    learning_rate: float = 0.003,
    betas: tuple[float, float] = (0.5, 0.999),
    history_size: int = 100,
) -> Iterator[Step]:
    """Run the program; images are 1 x 3 x H x W sRGB in [0, 1].

    The optimizer is "adam" or "lbfgs": torch's, without a line search, with one evaluation a step.
    `learning_rate` and `betas` are for Adam, `history_size` for L-BFGS.
    """
    with torch.no_grad():
        content_maps = extract(network, normalize(content))
        style_maps = extract(network, normalize(style))
    # torch.optim.LBFGS takes no other layout.
    target = normalize(content).clone(memory_format=torch.contiguous_format).requires_grad_(True)
    method: Any
    if optimizer == "adam":
        method = torch.optim.Adam([target], lr=learning_rate, betas=betas)
    else:
        method = torch.optim.LBFGS([target], max_iter=1, history_size=history_size)
    seen = (0.0, 0.0, 0.0)

    def closure() -> torch.Tensor:
        nonlocal seen
        content_terms, style_terms = losses(network, target, content_maps, style_maps)
        content_loss = sum(content_terms, start=torch.zeros(()))
        style_loss = sum(style_terms, start=torch.zeros(()))
        total = content_weight * content_loss + style_weight * style_loss
        method.zero_grad()
        total.backward()
        seen = (content_loss.item(), style_loss.item(), total.item())
        return total

    for _ in range(steps):
        method.step(closure)
        yield Step(*seen, target)


def load_state(path: Path, *, name: str = "vgg19") -> dict[str, torch.Tensor]:
    """Read a state dict with torch's own reader; its keys become torchvision's.

    Args:
      path: a file of torch.save, or of safetensors.
      name: the network, for keys such as conv1_1. A prefix "module." in the keys, or a missing
        "features.", makes no difference.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    positions, block, index, position = {}, 1, 1, 0
    for width in PLANS[name]:
        if width == "P":
            block, index, position = block + 1, 1, position + 1
        else:
            positions[f"conv{block}_{index}"] = position
            index, position = index + 1, position + 2  # the convolution and its ReLU
    renamed = {}
    pattern = r"(?:module\.)?(?:features\.)?(?:module\.)?(\d+|conv\d_\d)\.(\w+)"
    for key, value in state.items():
        if found := re.fullmatch(pattern, key):
            key = f"features.{positions.get(found[1], found[1])}.{found[2]}"
        renamed[key] = value.float()
    return renamed


def all_taps(
    state: Mapping[str, torch.Tensor],
    image: np.ndarray,
    *,
    name: str = "vgg19",
    layout: str = "torchvision",
) -> list[np.ndarray]:
    """Compute the feature maps before and after each ReLU, NHWC, in network order.

    Args:
      state: the state dict, with torchvision's keys.
      image: NHWC sRGB in [0, 1].
      name: the network.
      layout: "torchvision", or "caffe" for weights that expect BGR in [0, 255] minus the original
        mean. The image is padded with ImageNet's mean color before it is brought to that input:
        zero padding means this color in torchvision's layout.
    """
    network = vgg_features(state, name=name)
    x = normalize(torch.from_numpy(image).permute(0, 3, 1, 2))
    if layout == "caffe":
        mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
        x = 255 * denormalize(nn.functional.pad(x, (1, 1, 1, 1))).flip(1) - mean
        first: Any = network[0]
        first.padding = (0, 0)
    maps = []
    for module in network:
        x = module(x)
        if not isinstance(module, nn.AvgPool2d):
            maps.append(x.permute(0, 2, 3, 1).numpy().copy())
    return maps


def import_torchvision() -> Any:
    """Import torchvision, also beside a CPU build of torch.

    The published torchvision is built for CUDA. Beside a CPU build of torch its operators are not
    loaded, and the import fails where it registers shape rules for two of them. Declaring the two
    operators cures that.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision._nst_jax_operators = library  # the declarations live as long as `library`
    return torchvision


def download_pretrained(name: str) -> Path:
    """Fetch a network's IMAGENET1K_V1 through torchvision's API and return the file's path.

    Args:
      name: "vgg19" or "vgg16".

    Raises:
      OSError or RuntimeError: from torch.hub, for a network error or a wrong hash.
    """
    models = import_torchvision().models
    weights = getattr(models, f"{name.upper()}_Weights").IMAGENET1K_V1
    weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    return Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[-1])
