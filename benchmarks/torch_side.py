"""One step of the PyTorch program, ready to be timed: no host synchronization between steps."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from benchmarks.modes import EAGER, Mode, Platform

# As in the preset pytorch.
CONTENT_WEIGHT, STYLE_WEIGHT, LEARNING_RATE, BETAS = 1.0, 100.0, 0.003, (0.5, 0.999)

State = dict[str, torch.Tensor]


def load_reference() -> ModuleType:
    """Import `nst_jax.pytorch_reference` without its package, which would import JAX."""
    package = importlib.util.find_spec("nst_jax")
    assert package is not None
    assert package.submodule_search_locations is not None
    path = Path(next(iter(package.submodule_search_locations)), "pytorch_reference.py")
    spec = importlib.util.spec_from_file_location("pytorch_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # torch.compile looks functions up by their module's name
    spec.loader.exec_module(module)
    return module


class _Gram(torch.autograd.Function):
    """F Fᵀ in float32. The incoming gradient is symmetric, so that `backward` needs one product,
    where autograd makes two.
    """

    @staticmethod
    def forward(ctx: Any, flat: torch.Tensor) -> torch.Tensor:
        """Multiply; only CUDA takes bfloat16 to float32 without a copy."""
        ctx.save_for_backward(flat)
        if flat.is_cuda and flat.dtype != torch.float32:
            product: torch.Tensor = torch.mm(flat, flat.T, out_dtype=torch.float32)
            return product
        wide = flat.float()
        return wide @ wide.T

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Differentiate."""
        (flat,) = ctx.saved_tensors
        product: torch.Tensor = (gradient + gradient.T).to(flat.dtype) @ flat
        return product


# `apply` has no types.
_gram: Callable[[torch.Tensor], torch.Tensor] = _Gram.apply


def losses(
    maps: list[torch.Tensor], content_maps: list[torch.Tensor], style_grams: list[torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Compute the reference's losses with less work, and with all sums in float32.

    The Gram matrices of the style are given; the program as written computes them in each step.
    """
    content, style = [], []
    for f, f_content, gram in zip(maps, content_maps, style_grams, strict=True):
        _, channels, height, width = f.shape
        content.append(torch.mean((f.float() - f_content.float()) ** 2))
        difference = _gram(f.reshape(channels, height * width)) - gram
        style.append(torch.mean(difference**2) / (channels * height * width))
    return content, style


def load(path: Path) -> State:
    """Read the weights, as the program does."""
    state: State = load_reference().load_state(path)
    return state


def kept_programs() -> AbstractContextManager[None]:
    """Do nothing: torch finds its cache in the environment."""
    return contextlib.nullcontext()


class Job:
    """A run of the program, some steps at a time."""

    def __init__(
        self, mode: Mode, content: np.ndarray, style: np.ndarray, read: Callable[[], State]
    ):
        reference = load_reference()
        self._reference = reference
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        layout = torch.channels_last if mode.channels_last else torch.contiguous_format
        dtype = torch.bfloat16 if mode.precision == "bfloat16" else torch.float32
        torch.backends.cuda.matmul.allow_tf32 = mode.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = mode.precision == "tf32"
        torch.backends.cudnn.benchmark = True
        network = reference.vgg_features(read())
        # Layers after the last tap would cost no time, but memory.
        network = network[: reference.first_convolutions(network)[-1] + 2]
        network = network.to(device=device, dtype=dtype, memory_format=layout)
        content_input, style_input = (
            reference.normalize(torch.from_numpy(image).permute(2, 0, 1)[None])
            .to(device)
            .contiguous(memory_format=layout)
            for image in (content, style)
        )
        with torch.no_grad():
            content_maps = reference.extract(network, content_input.to(dtype))
            style_maps = reference.extract(network, style_input.to(dtype))
        self._target = content_input.clone(memory_format=torch.preserve_format).requires_grad_()
        self._optimizer = torch.optim.Adam(
            [self._target], lr=LEARNING_RATE, betas=BETAS, fused=True
        )
        style_grams = [_gram(f.reshape(f.shape[1], -1)) for f in style_maps]
        as_written = mode.name == EAGER

        def loss(target: torch.Tensor) -> Any:
            if as_written:
                content, style = reference.losses(network, target, content_maps, style_maps)
            else:
                maps = reference.extract(network, target.to(dtype))
                content, style = losses(maps, content_maps, style_grams)
            return CONTENT_WEIGHT * sum(content[1:], content[0]) + STYLE_WEIGHT * sum(
                style[1:], style[0]
            )

        self._loss = loss
        if mode.method != "eager":
            how = None if mode.method == "compile" else mode.method
            self._loss = torch.compile(loss, mode=how, fullgraph=True, dynamic=False)
        self._cuda = device.type == "cuda"
        # `cudagraph_mark_step_begin` imports the compiler, which eager modes must not pay for.
        self._graphs = self._cuda and mode.method == "max-autotune"
        self._wait()

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()

    def run(self, steps: int) -> None:
        """Make steps and wait until they are made."""
        for _ in range(steps):
            if self._graphs:
                torch.compiler.cudagraph_mark_step_begin()
            self._optimizer.zero_grad(set_to_none=True)
            self._loss(self._target).backward()
            self._optimizer.step()
        self._wait()

    def picture(self) -> np.ndarray:
        """Return the picture after the last step, HWC."""
        image = self._reference.denormalize(self._target.detach().cpu())
        array: np.ndarray = image[0].permute(1, 2, 0).numpy()
        return array

    def device_peak(self) -> int | None:
        """Return the most bytes in use on the device so far; None if they are not counted."""
        return torch.cuda.max_memory_allocated() if self._cuda else None


def check_device(platform: Platform) -> None:
    """Raise ValueError if torch does not compute on the platform; limit its threads to our CPUs."""
    found = "gpu" if torch.cuda.is_available() else "cpu"
    if found != platform:
        raise ValueError(f"torch computes on {found}, not on {platform}")
    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
