"""Run the PyTorch program and nst_jax on the same inputs, and compare their losses step by step.

    python benchmarks/parity.py --content=PATH --style=PATH --weights=FILE.pth --steps=200

Needs torch (`pip install '.[convert]'`). Prints relative differences |a - b| / |b| against torch.
"""

import argparse
import time
from pathlib import Path

import jax
import numpy as np
import torch

from nst_jax import Config, build_vgg19, load_image, pytorch_reference, stylize
from nst_jax.weights import convert


def main() -> None:
    """Read the flags, run both programs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("content", "style", "weights"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    flags = parser.parse_args()
    config = Config(size=flags.size, steps=flags.steps, learning_rate=flags.learning_rate)
    content = load_image(flags.content, size=flags.size)
    style = load_image(flags.style, shape=content.shape[:2])

    began = time.perf_counter()
    theirs, their_picture = run_torch(content, style, flags.weights, config)
    between = time.perf_counter()
    ours, our_picture = run_jax(content, style, flags.weights, config)
    ended = time.perf_counter()

    print(f"torch {torch.__version__}: {between - began:.0f} s")
    print(f"jax {jax.__version__} on {jax.default_backend()}: {ended - between:.0f} s")
    print("step   total (torch)   total (nst_jax)  difference")
    for i in sorted({0, 1, 10, 50, 100, flags.steps - 1} & set(range(flags.steps))):
        print(f"{i:4}  {theirs[i]:14.7g}  {ours[i]:16.7g}  {abs(ours[i] / theirs[i] - 1):10.1e}")
    print(f"largest difference over all steps: {np.max(np.abs(ours / theirs - 1)):.1e}")
    difference = np.linalg.norm(our_picture - their_picture) / np.linalg.norm(their_picture)
    print(f"picture, ‖a - b‖/‖b‖: {difference:.1e}")


def run_torch(
    content: np.ndarray, style: np.ndarray, weights: Path, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Return the total loss of every step and the picture."""
    network = pytorch_reference.vgg19_features(pytorch_reference.load_state(weights))
    images = [torch.from_numpy(x).permute(2, 0, 1)[None] for x in (content, style)]
    steps = list(
        pytorch_reference.stylize(
            network, *images, steps=config.steps, learning_rate=config.learning_rate
        )
    )
    picture = pytorch_reference.denormalize(steps[-1].target.detach())[0].permute(1, 2, 0)
    return np.array([step.total for step in steps]), picture.numpy().clip(0, 1)


def run_jax(
    content: np.ndarray, style: np.ndarray, weights: Path, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """Return the total loss of every step and the picture."""
    network = build_vgg19(convert(weights)[0])
    with jax.default_matmul_precision("highest"):
        snapshots = list(stylize(content, style, network=network, config=config))
    totals = np.concatenate([snapshot.losses.total for snapshot in snapshots])
    return totals, np.asarray(snapshots[-1].image)


if __name__ == "__main__":
    main()
