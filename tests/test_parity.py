"""The ladder against PyTorch, with a randomly initialized torchvision VGG-19 and odd sizes.

The weights go through the real converter; the budgets are `ladder.BUDGETS`, which says where they
come from. `nst_jax.crosscheck` runs the same ladder on anybody's images.
"""

import dataclasses

import jax
import numpy as np
import pytest

from nst_jax import crosscheck, ladder, preset
from nst_jax.architecture import TAPS
from nst_jax.program import split_config

BASE = dataclasses.replace(preset("pytorch"), steps=20, precision="float32", conv="direct")
LAYERS = split_config(BASE)[1].style_layers
ADAM = dataclasses.replace(BASE, learning_rate=0.02)
LBFGS = dataclasses.replace(BASE, optimizer="lbfgs-torch", memory_size=7)
CASES = {
    "float64, Adam": dataclasses.replace(ADAM, precision="float64"),
    "float64, L-BFGS, max": dataclasses.replace(LBFGS, precision="float64", pooling="max"),
    "float32, Adam, l2": dataclasses.replace(ADAM, pooling="l2"),
    "float32, L-BFGS": LBFGS,
    "winograd, Adam": dataclasses.replace(ADAM, conv="winograd"),
    "bfloat16, Adam, max": dataclasses.replace(ADAM, precision="bfloat16", pooling="max"),
}


def record_of(torch, reference, state, content, style, config):
    from nst_jax import pytorch_record

    height, width = content.shape[:2]
    style = np.resize(style, (height, style.shape[1], 3))[:, :width]
    style = np.pad(style, ((0, 0), (0, width - style.shape[1]), (0, 0)), mode="wrap")
    return pytorch_record.record(state, content, style, config)


@pytest.mark.optimized
@pytest.mark.parametrize("case", CASES)
def test_every_rung_is_within_its_budget(case, torch, reference, torch_file, photographs):
    config, state = CASES[case], reference.load_state(torch_file)
    content, style = (image[:21, :27] for image in photographs)  # most of the time goes to pixels
    record = record_of(torch, reference, state, content, style, config)
    with jax.enable_x64(config.dtype == "float64"):
        network = ladder.network_of(record, config)
        rungs = list(ladder.climb(record, network, config))
        trajectory = ladder.run_beside(record, network, config)
        rungs += ladder.trajectory_rungs(trajectory, record, config)
    assert [rung.name for rung in rungs if not rung.passed] == []
    names = [rung.name for rung in rungs]
    assert len(set(names)) == len(names)
    expected = {f"map {tap}" for tap in TAPS} | {f"operation {tap}" for tap in TAPS}
    expected |= {f"{kind} {tap}" for kind in ("Gram", "content", "style") for tap in LAYERS}
    expected |= {"operation pool4", "loss", "update 8", "loss, steps 11-20", "picture, step 20"}
    assert expected < set(names)
    assert any(name.startswith("gradient") for name in names)
    assert trajectory.their_totals[-1] < 0.9 * trajectory.their_totals[0]  # it does descend


def test_reference_is_torchvision_with_average_pooling(torch, torchvision_vgg19, reference):
    ours = reference.vgg19_features(torchvision_vgg19.state_dict())
    theirs = torch.nn.Sequential(
        *(
            torch.nn.AvgPool2d(2, 2) if isinstance(m, torch.nn.MaxPool2d) else m
            for m in torchvision_vgg19.features[:36]
        )
    )
    x = torch.rand(1, 3, 33, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for a, b in zip(reference.extract(ours, x), reference.extract(theirs, x), strict=True):
            assert torch.equal(a, b)
            assert a.min() >= 0  # rectified in place: relu1_1, not conv1_1


@pytest.mark.optimized
@pytest.mark.slow
def test_trained_weights_and_photographs(torch, shared, capsys):
    flags = [f"--content={shared / 'images' / 'tubingen.jpg'}", "--size=97", "--steps=40"]
    flags += [f"--style={shared / 'images' / 'starry_night.jpg'}", "--learning-rate=0.02"]
    flags += [f"--weights={shared / 'weights' / 'vgg19_features.pth'}"]
    assert crosscheck.main(flags) == 0
    assert "passed: all" in capsys.readouterr().out
