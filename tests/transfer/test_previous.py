"""A frame that stays close to the result before."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax import Config, InputError, build_vgg19, layers, stylize
from nst_jax.color import gray

FEW = Config(
    min_size=0,
    steps=4,
    content_layers=layers("relu2_1"),
    style_layers=layers("relu1_1", "relu2_1"),
)
SHAPE = (24, 32)
LEFT = jnp.zeros(SHAPE).at[:, :16].set(1.0)


@pytest.fixture(scope="module")
def network(random_params):
    return build_vgg19(random_params)


@pytest.fixture(scope="module")
def images():
    """A frame, a style, and the result before."""
    return jax.random.uniform(jax.random.key(0), (3, *SHAPE, 3))


def last(images, network, config=FEW, **options):
    content, style = images[:2]
    *_, found = stylize(
        content, style, network=network, config=config, snapshot_every=None, **options
    )
    return found


def strong(weight=1e6):
    # So large a term leaves no other; steps of Adam this small stay where they are.
    return dataclasses.replace(FEW, temporal_weight=weight, learning_rate=1e-4)


def test_it_begins_with_the_result_before_and_stays_there(network, images):
    content, _, previous = images
    found = last(images, network, strong(), previous=previous, previous_mask=LEFT)
    near, far = np.split(np.abs(found.image - previous), 2, axis=1)
    assert near.max() < 1e-3
    assert np.abs(found.image - content)[:, 16:].max() < 1e-3 < far.mean()
    # Before the first step there is no difference.
    assert found.losses.terms["temporal"][0] == 0


def test_the_loss_is_that_of_the_mask(network, images):
    """One step from another picture than the result before; in numpy."""
    previous = images[2]
    soft = LEFT.at[:, 16].set(0.25)
    config = dataclasses.replace(FEW, steps=2, picture="last", temporal_weight=7.0)
    *_, first, second = stylize(
        *images[:2],
        network=network,
        config=config,
        snapshot_every=1,
        previous=previous,
        previous_mask=soft,
    )
    expected = np.mean(np.float64(soft)[..., None] * np.float64(first.image - previous) ** 2)
    losses = second.losses
    np.testing.assert_allclose(losses.terms["temporal"][-1], expected, rtol=1e-5)
    others = 3 * losses.content + losses.style + 20 * losses.terms["tv"]
    np.testing.assert_allclose(losses.total[-1], others[-1] + 7 * expected, rtol=1e-5)


def test_a_mask_of_zeros_is_no_frame_before(network, images):
    found = last(images, network, previous=images[2], previous_mask=jnp.zeros(SHAPE))
    expected = last(images, network)
    np.testing.assert_allclose(found.image, expected.image, atol=1e-6)


def test_each_picture_of_a_batch_has_its_own(network, images):
    content, style, previous = images
    contents = jnp.stack([content, content[::-1]])
    befores, masks = jnp.stack([previous, previous[::-1]]), jnp.stack([LEFT, LEFT[::-1]])
    both = last((contents, style), network, previous=befores, previous_mask=masks[..., None])
    for number in range(2):
        alone = last(
            (contents[number], style),
            network,
            previous=befores[number],
            previous_mask=masks[number],
        )
        np.testing.assert_allclose(both.image[number], alone.image, atol=1e-4)


def test_colors_that_are_kept_have_no_part_in_it(network, images):
    config = dataclasses.replace(FEW, color="keep")
    colored, uncolored = (
        last(images, network, config, previous=x) for x in (images[2], gray(images[2]))
    )
    np.testing.assert_allclose(colored.image, uncolored.image, atol=1e-5)
    assert jnp.abs(colored.image - last(images, network, config).image).mean() > 0.01


def test_a_run_goes_on_only_with_its_frame_before(network, images, tmp_path):
    def begin(previous):
        run = stylize(
            *images[:2],
            network=network,
            config=FEW,
            checkpoints=tmp_path,
            previous=previous,
            snapshot_every=2,
        )
        next(run)
        run.close()

    begin(images[2])
    begin(images[2])
    with pytest.raises(InputError, match="another job"):
        begin(images[2][::-1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"previous_mask": LEFT}, "give previous too"),
        ({"previous": jnp.ones((12, 32, 3))}, r"has the shape \[12, 32, 3\]"),
        ({"previous": jnp.ones((*SHAPE, 3)), "previous_mask": LEFT.T}, "previous mask has the"),
    ],
)
def test_what_does_not_fit_is_refused(network, images, options, said):
    with pytest.raises(InputError, match=said):
        last(images, network, **options)
