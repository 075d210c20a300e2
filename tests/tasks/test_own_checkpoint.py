"""Orbax keeps the state of one's own run, and the run goes on with the same numbers."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from nst_jax import VGG19, Minimizer, average, make_targets, style_transfer_loss

LAYERS = ("relu1_1", "relu2_1")


@pytest.fixture
def given():
    features = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1").features(LAYERS)
    content, style = jax.random.uniform(jax.random.key(0), (2, 16, 20, 3))
    targets = make_targets(features, content, style, content_layers=LAYERS[1:], style_layers=LAYERS)
    return content, features, targets


def loss(image, features, targets):
    return style_transfer_loss(image, targets, features=features)


def test_it_goes_on_as_if_it_had_not_stopped(given, tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint", reason="pip install '.[checkpoint]'")
    content, *args = given
    schedule = optax.cosine_decay_schedule(0.05, 8)  # the state holds its step
    minimizer = Minimizer(loss, optax.adam(schedule), has_aux=True, iterates=average(0.9))
    half, _ = minimizer.run(minimizer.init(content), 4, *args)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", half)
    with orbax.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(minimizer.init, content))
    assert int(restored.step) == 4
    (again, record), (whole, records) = (
        minimizer.run(state, 4, *args) for state in (restored, half)
    )
    np.testing.assert_array_equal(record.loss, records.loss)
    jax.tree.map(np.testing.assert_array_equal, again, whole)
    assert record.loss[-1] < record.loss[0]
