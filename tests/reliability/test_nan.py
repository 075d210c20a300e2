"""Losses that are not finite, in every precision and by every recipe."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import PRESETS, build_vgg19, preset, stylize
from package import ROOT

SHAPE = (32, 36)
WEIGHTS = (0.0, 1e-30, 1e8, 1e20, 3e38)


def last_of(content, style, network, config, **options):
    *_, last = stylize(
        content, style, network=network, config=config, snapshot_every=None, **options
    )
    return last


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_odd_weights(random_params, precision, record_property):
    """A recipe with odd weights paints, or names the term that failed; the picture is good."""
    cases = failed = 0
    with jax.enable_x64(precision == "float64"):
        network = build_vgg19(random_params, dtype=precision)
        draw = np.random.default_rng(0).uniform
        images = [jnp.asarray(draw(size=(*SHAPE, 3)), network.dtype) for _ in range(2)]
        for name in PRESETS:
            for on_nan in ("stop", "backoff"):
                base = dataclasses.replace(
                    preset(name),
                    min_size=0,
                    steps=12,
                    precision=precision,
                    conv="direct",
                    activations="own",  # those of random weights are not known
                )
                if on_nan == "backoff" and base.optimizer == "lbfgs":
                    continue
                for weight in WEIGHTS:
                    config = dataclasses.replace(base, style_weight=weight, on_nan=on_nan)
                    last = last_of(*images, network, config)
                    shown = np.asarray(last.image, float)
                    assert ((shown >= 0) & (shown <= 1)).all(), (name, weight)
                    assert last.finite or last.failed.failed, (name, weight)
                    assert not last.finite or np.isfinite(last.losses.total).all()
                    failed += not last.finite
                    cases += 1
    assert failed  # else the weights are not odd enough
    record_property("cases", cases)


@pytest.mark.slow
@pytest.mark.usefixtures("package")
def test_a_recipe_that_diverges(record_property):
    """A peer's recipe that diverges in its third step names the term, and goes on by backoff."""
    from nst_jax import load_image, load_vgg16

    images = [load_image(ROOT / f"png/{name}.png", size=144) for name in ("content", "style")]
    config = dataclasses.replace(
        preset("neural-style"), min_size=0, steps=60, network="vgg16", conv="winograd"
    )
    stopped = last_of(*images, load_vgg16(), config)
    assert not stopped.finite
    assert stopped.failed.step == 3
    assert "term of relu" in stopped.failed.failed
    went_on = last_of(*images, load_vgg16(), dataclasses.replace(config, on_nan="backoff"))
    assert went_on.finite
    assert went_on.step == 60
    assert went_on.losses.total[-1] < went_on.losses.total[0]
    record_property("cases", 2)
