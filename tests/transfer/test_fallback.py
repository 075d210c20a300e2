"""Numbers that are not finite: where a run ends, and how it goes back."""

import dataclasses
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import Config, InputError, Losses, build_vgg19, layers, stylize
from nst_jax.transfer.fallback import TRIES, Setback, what_failed

# Steps of 50 levels of color, far beyond what a picture can show: the loss runs away at once.
WILD = Config(
    min_size=0,
    steps=30,
    content_layers=layers("relu2_1"),
    style_layers=layers("relu1_1", "relu2_1"),
    clamp=False,
    learning_rate=50.0,
    on_nan="backoff",
)
SHAPE = (24, 32)


@pytest.fixture(scope="module")
def network(random_params):
    return build_vgg19(random_params)


@pytest.fixture(scope="module")
def images():
    return jax.random.uniform(jax.random.key(0), (2, *SHAPE, 3))


def run(images, network, snapshot_every=None, **settings):
    """Return the last snapshot, and the losses of all."""
    content, style = images
    config = dataclasses.replace(WILD, **settings)
    found = list(
        stylize(content, style, network=network, config=config, snapshot_every=snapshot_every)
    )
    return found[-1], np.concatenate([x.losses.total for x in found])


def test_it_goes_back_until_the_steps_are_short_enough(network, images):
    last, totals = run(images, network)
    assert last.finite
    assert last.step == len(totals) == 30
    assert [x.step for x in last.setbacks] == [2, 3, 4]
    assert {x.failed for x in last.setbacks} == {"the loss grew a thousandfold"}
    assert np.isfinite(totals).all()
    assert totals[-1] < totals[0]
    # The same steps without a setback, one of 50 / 4³.
    plain, same = run(images, network, learning_rate=50 / 4**3)
    assert not plain.setbacks
    np.testing.assert_allclose(totals[3:10], same[:7], rtol=1e-5)


def test_the_pace_makes_no_difference(network, images):
    settings = {"min_size": 17, "first_steps": 14}
    last, totals = run(images, network, **settings)
    for every in (1, 7):
        other, same = run(images, network, every, **settings)
        np.testing.assert_array_equal(other.image, last.image)
        np.testing.assert_array_equal(same, totals)
        assert other.setbacks == last.setbacks
    assert last.step == 14 + 30
    # The next scale begins with the short steps.
    assert all(x.step < 14 for x in last.setbacks)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_it_ends_with_the_last_good_picture(images, random_params, precision):
    far = 1e10 if precision != "float64" else 1e80
    with jax.enable_x64(precision == "float64"):
        network = build_vgg19(random_params, dtype=precision)
        both = [jnp.asarray(np.asarray(x)) for x in images]
        settings = {"learning_rate": far, "precision": precision}
        for on_nan, count in (("stop", 0), ("backoff", TRIES)):
            last, _ = run(both, network, on_nan=on_nan, **settings)
            assert not last.finite
            assert len(last.setbacks) == count
            assert last.failed.step == 2 + count
            np.testing.assert_allclose(last.image, both[0], atol=1e-6)  # the first picture
        assert last.setbacks[0] == Setback(
            2, "the style term of relu1_1 became infinite or not a number"
        )


def test_what_is_bad_from_the_start_is_not_tried_again(network, images):
    for weight, failed in (
        (3e38, Setback(1, "the loss became infinite or not a number")),
        (1e37, Setback(5, "the squares of the gradient became infinite")),
    ):
        weights = {f"{name}_weight": weight for name in ("content", "style", "tv")}
        last, _ = run(images, network, 5, start="gray", **weights)
        assert not last.finite
        assert last.failed == failed
        assert not last.setbacks


def test_a_run_goes_on_with_its_setbacks(network, images, tmp_path):
    """Stopped before the first setback, between two, behind all, and at the next scale."""
    settings = {"min_size": 17, "first_steps": 14, "learning_rate": 10.0}
    expected, _ = run(images, network, **settings)
    assert len(expected.setbacks) == 2
    config = dataclasses.replace(WILD, **settings)
    for stop in (2, 3, 12, 17):
        folder = tmp_path / str(stop)
        for end in (stop, 44):
            found = stylize(
                *images, network=network, config=config, checkpoints=folder, snapshot_every=1
            )
            for last in found:
                if last.step >= end:
                    break
            found.close()
        np.testing.assert_array_equal(last.image, expected.image, err_msg=str(stop))
        assert last.setbacks == expected.setbacks


@pytest.mark.parametrize("settings", [{"tile": 16}, {"picture": "best"}])
def test_other_runs_go_back_too(network, images, settings):
    tall = [jnp.tile(image, (4, 1, 1)) for image in images]
    last, totals = run(tall, network, steps=20, **settings)
    assert last.finite
    assert [x.step for x in last.setbacks] == [2, 3, 4]
    assert totals[-1] < totals[0]


def test_lbfgs_goes_back_too(network, images):
    """A loss in which the first quasi-Newton step is far too long."""
    settings = {"optimizer": "lbfgs-torch", "style_loss": "neural-style", "style_weight": 1e14}
    settings |= {"content_loss": "half-sum", "tv_weight": 0.0, "learning_rate": 0.03}
    last, totals = run(images, network, **settings)
    assert last.finite
    assert totals[-1] < totals[0]


def test_several_pictures_at_once_are_refused(network, images):
    with pytest.raises(InputError, match="on_nan is backoff, which is for one picture at a time"):
        run((jnp.stack([images[0]] * 2), images[1]), network)


def test_what_failed_is_named():
    good, bad = np.ones(2), np.asarray([1.0, np.nan])
    style = OrderedDict(relu1_1=good, relu2_1=bad)
    losses = Losses(bad, good, bad, OrderedDict(relu4_2=good), style, OrderedDict(tv=good))
    assert what_failed(losses, 1) == "the style term of relu2_1 became infinite or not a number"
    assert what_failed(losses, 0) == "the loss grew a thousandfold"
    assert what_failed(losses, None) == "the picture became infinite or not a number"
    worse = losses._replace(terms=OrderedDict(tv=bad), style_terms=OrderedDict())
    assert what_failed(worse, 1) == "the tv became infinite or not a number"
