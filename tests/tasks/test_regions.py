"""Two styles in one picture, each in its region: statistics are weighted by a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from nst_jax import (
    VGG19,
    Minimizer,
    Targets,
    resample,
    style_statistics,
    style_target,
    style_transfer_loss,
)

TAPS = ("relu1_1", "relu2_1")
KIND = "moments"


def by_region(image, features, masks):
    """Name the statistics of each layer in each region."""
    maps = features(image)
    found = {"relu2_1": maps["relu2_1"]}
    for (where, mask), name in ((item, name) for item in masks.items() for name in TAPS):
        weights = resample(mask[..., None], maps[name].shape[:2], method="linear")[..., 0]
        found[f"{name} {where}"] = style_statistics(maps[name], weights=weights)
    return found


def loss(image, features, targets, masks):
    return style_transfer_loss(
        image, targets, features=lambda image: by_region(image, features, masks)
    )


def test_each_region_takes_on_its_own_style():
    features = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1").features(TAPS)
    content, red, blue = jax.random.uniform(jax.random.key(0), (3, 16, 24, 3))
    styles = {"left": red.at[..., 2].set(0.0), "right": blue.at[..., 0].set(0.0)}
    left = jnp.zeros((16, 24)).at[:, :12].set(1.0)
    masks = {"left": left, "right": 1 - left}
    target = {
        f"{name} {where}": style_target(style_statistics(map_), positions=1, kind=KIND)
        for where, style in styles.items()
        for name, map_ in features(style).items()
    }
    targets = Targets({"relu2_1": features(content)["relu2_1"]}, target, KIND)
    minimizer = Minimizer(loss, optax.adam(0.03), has_aux=True, project=lambda x: x.clip(0, 1))
    state, record = minimizer.run(minimizer.init(content), 12, features, targets, masks)
    for terms in record.aux.style_terms.values():
        assert terms[-1] < 0.7 * terms[0]
    halves = np.split(np.asarray(state.variable), 2, axis=1)
    (red_left, _, blue_left), (red_right, _, blue_right) = (half.mean((0, 1)) for half in halves)
    assert red_left - blue_left > 0.1
    assert blue_right - red_right > 0.1
