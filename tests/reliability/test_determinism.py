"""The same command twice, and the same call twice in one process."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fast import xla_flags
from nst_jax import Config, build_vgg19, layers, save_image, stylize
from package import ROOT

SHALLOW = ("--style-layers=relu1_1", "--content-layers=relu1_1", "--weights=untrained:3")
SHORT = ("--size=40", "--min-size=24", "--first-steps=6", "--steps=4", "--seed=7", "--quiet")
KINDS = {
    "noise": ["--start=noise"],
    "style": ["--start=style", "--start-blend=0.5"],
    "lbfgs": ["--optimizer=lbfgs"],
    "lbfgs-torch": ["--optimizer=lbfgs-torch"],
    "tiles": ["--tile=16", "--size=96"],
    "best": ["--picture=best"],
    "keep": ["--color=keep"],
    "wrap": ["--wrap=both"],
    "bfloat16": ["--precision=bfloat16"],
    "float64": ["--precision=float64"],
    "wasserstein": ["--style-loss=wasserstein"],
}


@pytest.mark.slow
def test_one_command_twice(tmp_path, photographs, record_property):
    """The same command on the same machine writes the same bytes, in a new process too."""
    for name, image in zip(("c.png", "s.png"), photographs, strict=True):
        save_image(tmp_path / name, image)
    environment = os.environ | {"NST_JAX_CACHE": str(tmp_path / "cache"), "XLA_FLAGS": xla_flags()}
    for kind, flags in KINDS.items():
        pictures = []
        for number in range(2):
            output = f"{kind}{number}.png"
            command = [sys.executable, str(ROOT / "main.py"), "--content=c.png", "--style=s.png"]
            command += [*SHALLOW, *SHORT, *flags, f"--output={output}"]
            subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
            pictures.append(Path(tmp_path, output).read_bytes())
        assert pictures[0] == pictures[1], kind
    record_property("cases", 2 * len(KINDS))


def test_one_call_twice(random_params, photographs, record_property):
    """The same call in one process returns the same picture to the last bit, noise and all."""
    content, style = photographs
    network = build_vgg19(random_params)
    for seed in (0, 1):
        config = Config(
            min_size=0,
            steps=3,
            start="noise",
            seed=seed,
            content_layers=layers("relu1_1"),
            style_layers=layers("relu1_1"),
        )
        (*_, first), (*_, second) = (
            stylize(content, style, network=network, config=config) for _ in range(2)
        )
        np.testing.assert_array_equal(first.image, second.image)
    record_property("cases", 4)
