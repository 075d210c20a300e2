"""A scale ends early when its loss no longer falls fast enough."""

import numpy as np
import pytest
from flax import nnx

from nst_jax import VGG19, Config, layers, stylize

CONFIG = Config(
    min_size=16,
    scale_factor=2.0,
    first_steps=12,
    steps=8,
    content_layers=layers("relu2_1"),
    style_layers=layers("relu1_1", "relu2_1"),
)


@pytest.fixture
def run():
    network = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1")
    content, style = np.random.default_rng(0).uniform(size=(2, 24, 32, 3)).astype(np.float32)
    return lambda **options: list(
        stylize(content, style, network=network, config=CONFIG, snapshot_every=4, **options)
    )


def test_the_next_scale_begins_where_the_callback_says(run):
    asked = []

    def settled(snapshot):
        asked.append(snapshot)
        return snapshot.scale == 1 and snapshot.scale_step >= 4

    found = [(s.scale, s.scale_step, s.step, len(s.losses.total)) for s in run(end_scale=settled)]
    # The 8 steps that are left at the first scale are counted, but not made.
    assert found == [(1, 4, 4, 4), (2, 4, 16, 4), (2, 8, 20, 4)]
    assert len(asked) == 3


def test_what_is_made_is_the_same_as_without(run):
    stopped, whole = run(end_scale=lambda snapshot: snapshot.scale == 1), run()
    assert len(stopped) < len(whole)
    np.testing.assert_array_equal(stopped[0].image, whole[0].image)
    np.testing.assert_array_equal(stopped[0].losses.total, whole[0].losses.total)
    assert not np.array_equal(stopped[-1].image, whole[-1].image)
