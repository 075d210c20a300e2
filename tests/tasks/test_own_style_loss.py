"""A style loss of one's own over scales: means and deviations, as of batch normalization."""

import jax
import numpy as np
import optax
from flax import nnx

from nst_jax import (
    VGG19,
    Minimizer,
    Problem,
    StyleFormula,
    make_targets,
    resample,
    run_scales,
    style_transfer_loss,
)

LAYERS = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1", "relu2_1"]}


def moments(map_):
    return map_.mean((-3, -2)), map_.std((-3, -2))


def distance(map_, target):
    pairs = zip(moments(map_), target, strict=True)
    return sum(((ours - theirs) ** 2).mean(-1) for ours, theirs in pairs)


FORMULA = StyleFormula(moments, distance)
MINIMIZER = Minimizer(
    lambda image, features, targets: style_transfer_loss(image, targets, features=features),
    optax.adam(0.03),
    has_aux=True,
)


def test_statistics_approach_the_style_at_every_scale():
    features = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1").features(LAYERS["style_layers"])
    content = jax.random.uniform(jax.random.key(0), (24, 32, 3))
    style = content[::-1] ** 3  # darker

    def problem(shape):
        images = resample(content, shape), style
        targets = make_targets(features, *images, **LAYERS, style_loss=FORMULA)
        return Problem(MINIMIZER, (features, targets))

    plan = [((12, 16), 6), ((24, 32), 6)]
    first, second = run_scales(content, problem, scales=plan, snapshot_every=6)
    assert [s.image.shape for s in (first, second)] == [(12, 16, 3), (24, 32, 3)]
    assert first.losses.aux.style[-1] < 0.7 * first.losses.aux.style[0]
    assert second.losses.aux.style[-1] < 0.9 * second.losses.aux.style[0]
    start, expected = resample(content, (12, 16), method="cubic"), 0.0
    for ours, theirs in zip(features(start).values(), features(style).values(), strict=True):
        x, y = (np.asarray(maps, float) for maps in (ours, theirs))
        for moment in np.mean, np.std:
            expected += ((moment(x, (0, 1)) - moment(y, (0, 1))) ** 2).mean()
    np.testing.assert_allclose(first.losses.aux.style[0], expected, rtol=1e-4)  # float32
