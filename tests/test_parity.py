"""The ladder against PyTorch: taps, losses, gradient, steps; it names the first rung that breaks.

A randomly initialized torchvision VGG-19 goes through the real converter. Errors are ‖a − b‖/‖b‖.
Budgets: in float64 rounding alone, 1e-16 times the 16 layers and the sums; in float32 the same with
6e-8, where the gradient also passes ReLUs that open or close by rounding, and Adam's first steps
divide small gradients by their own size.
"""

import functools
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import Config, build_vgg19, stylize
from nst_jax.objective import make_targets, style_transfer_loss
from nst_jax.vgg import TAPS, denormalize, normalize
from nst_jax.weights import convert

STEPS = 20
BUDGETS = {
    "float64": {"tap": 1e-12, "term": 1e-12, "gradient": 1e-11, "steps": 1e-9},
    "float32": {"tap": 5e-6, "term": 1e-4, "gradient": 1e-4, "steps": 1e-3},
}
LAYERS = Config().style_layers


def error(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def to_torch(torch, image, dtype):
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(getattr(torch, dtype))


def from_torch(x):
    return x.detach()[0].permute(1, 2, 0).numpy()


@pytest.fixture(scope="module", params=["float64", "float32"])
def rungs(request, torch, reference, torch_file, photographs):
    """Both sides of every rung, computed once."""
    dtype, (content, style) = request.param, photographs
    style = np.ascontiguousarray(style[: content.shape[0], : content.shape[1]])
    style = np.pad(style, ((0, 0), (0, content.shape[1] - style.shape[1]), (0, 0)), mode="wrap")
    start = np.clip(content + 0.1 * np.sin(np.arange(content.size)).reshape(content.shape), 0, 1)
    start = start.astype(np.float32)
    theirs, ours = SimpleNamespace(), SimpleNamespace()

    state = reference.load_state(torch_file)
    network = reference.vgg19_features(state).to(getattr(torch, dtype))
    images = [to_torch(torch, x, dtype) for x in (content, style, start)]
    z_content, z_style, z_start = map(reference.normalize, images)
    theirs.taps = taps_in(torch, network, z_start)
    with torch.no_grad():
        targets = [reference.extract(network, z) for z in (z_content, z_style)]
    z_start.requires_grad_(True)
    theirs.content, theirs.style = reference.losses(network, z_start, *targets)
    (theirs.content + 100 * theirs.style).backward()
    theirs.gradient = from_torch(z_start.grad)
    steps = list(reference.stylize(network, *images[:2], steps=STEPS, learning_rate=0.02))
    theirs.totals = [step.total for step in steps]
    theirs.picture = from_torch(reference.denormalize(steps[-1].target)).clip(0, 1)

    with jax.enable_x64(dtype == "float64"):
        kind = jnp.dtype(dtype)
        net = build_vgg19(convert(torch_file)[0], dtype=kind, param_dtype=kind)
        ours_images = [jnp.asarray(x, kind) for x in (content, style, start)]
        features = jax.jit(lambda net, x: net(x, LAYERS))
        ours.taps = jax.jit(lambda net, x: net(x))(net, ours_images[2])
        goals = make_targets(
            functools.partial(features, net),
            *ours_images[:2],
            content_layers=LAYERS,
            style_layers=LAYERS,
        )

        @jax.jit
        def gradient(net, z):
            loss = lambda z: style_transfer_loss(  # noqa: E731
                denormalize(z), goals, features=functools.partial(features, net)
            )
            return jax.value_and_grad(loss, has_aux=True)(z)

        (_, ours.losses), ours.gradient = gradient(net, normalize(ours_images[2]))
        config = Config(steps=STEPS, learning_rate=0.02)
        snapshots = list(stylize(*ours_images[:2], network=net, config=config, snapshot_every=7))
        ours.totals = np.concatenate([s.losses.total for s in snapshots])
        ours.picture = snapshots[-1].image
        ours.snapshot_steps = [s.step for s in snapshots]
    return SimpleNamespace(ours=ours, theirs=theirs, budget=BUDGETS[dtype])


def taps_in(torch, network, x):
    maps = []
    with torch.no_grad():
        for module in network:
            x = module(x)
            if not isinstance(module, torch.nn.AvgPool2d):
                maps.append(from_torch(x.clone()))
    return maps


def test_taps(rungs):
    for tap, theirs in zip(TAPS, rungs.theirs.taps, strict=True):
        assert error(rungs.ours.taps[tap], theirs) < rungs.budget["tap"], tap


def test_loss_terms(rungs):
    assert error(rungs.ours.losses.content, rungs.theirs.content.item()) < rungs.budget["term"]
    assert error(rungs.ours.losses.style, rungs.theirs.style.item()) < rungs.budget["term"]


def test_gradient(rungs):
    assert error(rungs.ours.gradient, rungs.theirs.gradient) < rungs.budget["gradient"]


def test_every_step_and_the_picture(rungs):
    assert rungs.ours.snapshot_steps == [7, 14, 20]
    ours, theirs = rungs.ours.totals, np.array(rungs.theirs.totals)
    assert theirs[-1] < 0.9 * theirs[0]  # it does descend
    assert np.max(np.abs(ours - theirs) / theirs) < rungs.budget["steps"]
    assert error(rungs.ours.picture, rungs.theirs.picture) < rungs.budget["steps"]


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


@pytest.mark.slow
def test_trained_weights_and_photographs_step_by_step(torch, reference, shared):
    """The issue's own job, at 96 px: 40 steps with the real weights on the real pictures."""
    from nst_jax import load_image

    content = load_image(shared / "images" / "tubingen.jpg", size=96)
    style = load_image(shared / "images" / "starry_night.jpg", shape=content.shape[:2])
    weights: Path = shared / "weights" / "vgg19_features.pth"
    network = reference.vgg19_features(reference.load_state(weights))
    images = [to_torch(torch, x, "float32") for x in (content, style)]
    steps = reference.stylize(network, *images, steps=40, learning_rate=0.02)
    theirs = np.array([step.total for step in steps])
    config = Config(steps=40, learning_rate=0.02)
    *_, last = stylize(
        content,
        style,
        network=build_vgg19(convert(weights)[0]),
        config=config,
        snapshot_every=40,
    )
    assert np.max(np.abs(last.losses.total - theirs) / theirs) < 1e-3
    assert theirs[-1] < theirs[0] / 20
