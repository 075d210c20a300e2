"""Numbers of a run change while it paints, and nothing is compiled again."""

import dataclasses

import numpy as np
import pytest
from flax import nnx

from nst_jax import VGG19, Config, InputError, layers, stylize
from nst_jax.scale.step import advance

CONFIG = Config(
    min_size=16,
    scale_factor=2.0,
    first_steps=6,
    steps=6,
    content_layers=layers("relu2_1"),
    style_layers=layers("relu1_1", "relu2_1"),
)
OTHER = {"learning_rate": 0.01, "content_weight": 40.0, "style_weight": 0.25}


@pytest.fixture(scope="module")
def run():
    network = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1")
    content, style = np.random.default_rng(0).uniform(size=(2, 48, 64, 3)).astype(np.float32)

    def last(config=CONFIG, **options):
        options = {"snapshot_every": 3} | options
        return list(stylize(content, style, network=network, config=config, **options))

    return last


def totals(snapshots):
    return np.concatenate([snapshot.losses.total for snapshot in snapshots])


def test_the_numbers_of_each_call_hold_for_its_steps(run):
    asked = []

    def adjust(step):
        asked.append(step)
        return OTHER if step >= 3 else {}

    adjusted, plain = run(adjust=adjust), run()
    assert asked == [0, 3, 6, 9, 12, 15]
    np.testing.assert_array_equal(adjusted[0].image, plain[0].image)
    assert not np.array_equal(adjusted[1].image, plain[1].image)
    # From the first step on they make the run of another config, at both scales.
    other = dataclasses.replace(CONFIG, **OTHER)
    np.testing.assert_array_equal(totals(run(adjust=lambda _: OTHER)), totals(run(other)))


def test_other_numbers_compile_nothing(run):
    run()
    before = advance._cache_size()
    run(adjust=lambda step: {"style_weight": 1.0 + step})
    assert advance._cache_size() == before


def test_in_tiles_too(run):
    tiled = dataclasses.replace(CONFIG, tile=16)  # the last scale has several tiles
    adjusted, other = run(tiled, adjust=lambda _: OTHER), dataclasses.replace(tiled, **OTHER)
    np.testing.assert_array_equal(totals(adjusted), totals(run(other)))
    # And back again.
    back = run(tiled, adjust=lambda step: OTHER if step < 3 else {})
    np.testing.assert_array_equal(back[0].image, adjusted[0].image)
    assert not np.array_equal(back[1].image, adjusted[1].image)
    late = run(tiled, adjust=lambda step: OTHER if step >= 15 else {})  # at the last scale
    plain = run(tiled)
    np.testing.assert_array_equal(late[4].image, plain[4].image)
    assert not np.array_equal(late[5].image, plain[5].image)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"tv_weight": 1.0}, "tv_weight cannot change on the way; allowed are learning_rate, "),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"style_weight": "much"}, "style_weight is 'much'; it must be a number"),
    ],
)
def test_numbers_that_are_not_allowed(run, numbers, expected):
    with pytest.raises(InputError, match=expected):
        run(adjust=lambda _: numbers)


def test_it_is_for_adam_alone(run):
    with pytest.raises(InputError, match=r"adjust is for the optimizer adam, .* is lbfgs"):
        run(dataclasses.replace(CONFIG, optimizer="lbfgs"), adjust=lambda _: OTHER)
