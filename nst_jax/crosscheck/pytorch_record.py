"""What the PyTorch program computes from two images, rung by rung, as named arrays.

`nst_jax.crosscheck.ladder` says what is compared with what. Importing this module needs torch.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from nst_jax import pytorch_reference as reference
from nst_jax.config import Config
from nst_jax.crosscheck.ladder import UPDATES, Record, marks

_NAMES = tuple(f"relu{block}_1" for block in range(1, 6))  # of the program's five layers


def record(
    state: Mapping[str, torch.Tensor], content: np.ndarray, style: np.ndarray, config: Config
) -> Record:
    """Run the program, and keep everything that `nst_jax.crosscheck.ladder` compares.

    Args:
      state: torchvision's state dict.
      content: HWC sRGB in [0, 1].
      style: the same, of the same size.
      config: the resolved settings. For bfloat16 and tf32 the program runs in float32, so that the
        errors found are those of the precision. Layers, padding and pool scale are the program's.
    """
    dtype = getattr(torch, config.image_dtype)
    network = reference.vgg_features(state, name=config.network, pooling=config.pooling).to(dtype)
    # The optimizer starts at the content image, where the content loss and its gradient are
    # zero: the single evaluation is made halfway between the two images instead.
    images = {"content": content, "style": style, "point": (content + style) / 2}
    found: dict[str, np.ndarray] = {f"image/{name}": image for name, image in images.items()}
    found |= {
        f"state/{key}": value.numpy() for key, value in state.items() if key.startswith("features.")
    }
    tensors = {
        name: torch.from_numpy(image).permute(2, 0, 1)[None].to(dtype)
        for name, image in images.items()
    }
    _add_evaluation(found, network, tensors, config)
    _add_trajectory(found, network, tensors, config)
    return found


def _hwc(x: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach()[0].permute(1, 2, 0).numpy().copy())


def _named_modules(network: nn.Sequential) -> Iterator[tuple[str, Any]]:
    block, index = 1, 1
    for module in network:
        if isinstance(module, nn.Conv2d):
            yield f"conv{block}_{index}", module
        elif isinstance(module, nn.ReLU):
            yield f"relu{block}_{index}", module
            index += 1
        else:
            yield f"pool{block}", module
            block, index = block + 1, 1


def _add_evaluation(
    found: dict[str, np.ndarray],
    network: nn.Sequential,
    tensors: Mapping[str, torch.Tensor],
    config: Config,
) -> None:
    point = reference.normalize(tensors["point"])
    found["normalized"] = _hwc(point)
    with torch.no_grad():
        x = point.clone()
        for name, module in _named_modules(network):
            x = module(x)
            found[f"map/{name}"] = _hwc(x)
        content_maps, style_maps = (
            reference.extract(network, reference.normalize(tensors[role]))
            for role in ("content", "style")
        )
        for name, features in zip(_NAMES, reference.extract(network, point), strict=True):
            found[f"gram/{name}"] = reference.gram_matrix(features).numpy()
    point.requires_grad_(True)
    terms = reference.losses(network, point, content_maps, style_maps)
    for kind, values in zip(("content", "style"), terms, strict=True):
        for name, value in zip(_NAMES, values, strict=True):
            found[f"{kind}/{name}"] = value.detach().numpy()
    content, style = (sum(values, start=torch.zeros(())) for values in terms)
    total = config.content_weight * content + config.style_weight * style
    total.backward()
    found["total"] = total.detach().numpy()
    assert point.grad is not None
    found["gradient"] = _hwc(point.grad)


def _add_trajectory(
    found: dict[str, np.ndarray],
    network: nn.Sequential,
    tensors: Mapping[str, torch.Tensor],
    config: Config,
) -> None:
    gradients, variables = [], [_hwc(reference.normalize(tensors["content"]))]
    losses = []
    run = reference.stylize(
        network,
        tensors["content"],
        tensors["style"],
        steps=config.steps,
        content_weight=config.content_weight,
        style_weight=config.style_weight,
        optimizer="adam" if config.optimizer == "adam" else "lbfgs",
        learning_rate=config.learning_rate,
        betas=(config.beta1, config.beta2),
        history_size=config.memory_size,
    )
    for number, step in enumerate(run, start=1):
        losses.append((step.content, step.style, step.total))
        if number <= UPDATES:
            assert step.target.grad is not None
            gradients.append(_hwc(step.target.grad))
            variables.append(_hwc(step.target))
        if number in marks(config.steps):
            picture = reference.denormalize(step.target).clamp(0, 1)
            found[f"picture/{number}"] = _hwc(picture)
    for name, column in zip(("content", "style", "total"), zip(*losses, strict=True), strict=True):
        found[f"losses/{name}"] = np.array(column)
    found["gradients"], found["variables"] = np.stack(gradients), np.stack(variables)
