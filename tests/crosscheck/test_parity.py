"""The ladder against PyTorch at odd sizes: VGG-19 as torchvision draws it, and VGG-16 trained.

The weights go through the real converter. The budgets are `ladder.BUDGETS`, with their source.
`nst_jax.crosscheck.__main__` runs the same ladder on any images.
"""

import dataclasses

import jax
import numpy as np
import pytest

from nst_jax import preset
from nst_jax.crosscheck import __main__ as crosscheck
from nst_jax.crosscheck import ladder
from nst_jax.weights.packaged import packaged_weights
from nst_jax.weights.state_dict import to_state_dict

BASE = dataclasses.replace(preset("pytorch"), steps=20, precision="float32", conv="direct")
BASE = BASE.resolve("cpu")
LAYERS = BASE.taps
ADAM = dataclasses.replace(BASE, learning_rate=0.02)
TRAINED = dataclasses.replace(ADAM, network="vgg16")
LBFGS = dataclasses.replace(BASE, optimizer="lbfgs-torch", memory_size=7)
CASES = {
    "float64, Adam": dataclasses.replace(ADAM, precision="float64"),
    "float64, Adam, VGG-16": dataclasses.replace(TRAINED, precision="float64"),
    "float64, L-BFGS, max, VGG-16": dataclasses.replace(
        LBFGS, precision="float64", pooling="max", network="vgg16"
    ),
    "float32, L-BFGS, l2": dataclasses.replace(LBFGS, pooling="l2"),
    "winograd, Adam, VGG-16": dataclasses.replace(TRAINED, conv="winograd"),
    "bfloat16, Adam, max": dataclasses.replace(ADAM, precision="bfloat16", pooling="max"),
}


@pytest.fixture
def state_of(request, torch, reference):
    """Return a network's weights as torch has them: VGG-16's are trained."""

    def find(network):
        if network == "vgg19":
            return reference.load_state(request.getfixturevalue("torch_file"))
        request.getfixturevalue("package")
        arrays = to_state_dict(packaged_weights().params, network)
        return {key: torch.from_numpy(array) for key, array in arrays.items()}

    return find


def record_of(torch, reference, state, content, style, config):
    from nst_jax.crosscheck import pytorch_record

    height, width = content.shape[:2]
    style = np.resize(style, (height, style.shape[1], 3))[:, :width]
    style = np.pad(style, ((0, 0), (0, width - style.shape[1]), (0, 0)), mode="wrap")
    return pytorch_record.record(state, content, style, config)


def marks_of(case):
    """How the compiler adds is a matter of rounding, which float64's budgets hardly see."""
    return [] if "64" in case else [pytest.mark.optimized, pytest.mark.slow]


@pytest.mark.parametrize("case", [pytest.param(x, marks=marks_of(x), id=x) for x in CASES])
def test_every_rung_is_within_its_budget(case, torch, reference, state_of, photographs):
    config = CASES[case]
    state = state_of(config.network)
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
    taps = config.architecture.taps
    expected = {f"map {tap}" for tap in taps} | {f"operation {tap}" for tap in taps}
    expected |= {f"{kind} {tap}" for kind in ("Gram", "content", "style") for tap in LAYERS}
    expected |= {"operation pool4", "loss", "update 8", "loss, steps 11-20", "picture, step 20"}
    assert expected < set(names)
    assert any(name.startswith("gradient") for name in names)
    assert trajectory.their_totals[-1] < 0.9 * trajectory.their_totals[0]  # it does descend


@pytest.mark.parametrize("pooling", ["average", "max"])
@pytest.mark.parametrize("network", ["vgg19", "vgg16"])
def test_reference_is_torchvision_with_this_pooling(torch, reference, network, pooling):
    vgg = reference.import_torchvision().models.vgg
    torch.manual_seed(0)
    features = vgg.make_layers(vgg.cfgs[{"vgg19": "E", "vgg16": "D"}[network]])
    state = {f"features.{key}": value for key, value in features.state_dict().items()}
    ours = reference.vgg_features(state, name=network, pooling=pooling)
    theirs = torch.nn.Sequential(
        *(
            torch.nn.AvgPool2d(2, 2)
            if isinstance(m, torch.nn.MaxPool2d) and pooling == "average"
            else m
            for m in features
        )
    )
    for parameter in theirs.parameters():
        parameter.requires_grad_(False)
    x = torch.rand(1, 3, 33, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for a, b in zip(reference.extract(ours, x), reference.extract(theirs, x), strict=True):
            assert torch.equal(a, b)
            assert a.min() >= 0  # rectified in place: relu1_1, not conv1_1


@pytest.mark.optimized
@pytest.mark.slow
def test_trained_vgg19_and_photographs(torch, shared, capsys):
    flags = [f"--content={shared / 'images' / 'tubingen.jpg'}", "--size=97", "--steps=40"]
    flags += [f"--style={shared / 'images' / 'starry_night.jpg'}", "--learning-rate=0.02"]
    flags += [f"--weights={shared / 'weights' / 'vgg19_features.pth'}"]
    assert crosscheck.main(flags) == 0
    assert "passed: all" in capsys.readouterr().out
