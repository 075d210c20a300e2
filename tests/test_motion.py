"""Optical flow: moved pictures, and what the picture before shows, on the film of png/clip.py."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from nst_jax import seen_before, warp
from nst_jax.motion import resize_flow
from package import ROOT


@pytest.fixture(scope="module")
def clip():
    """Two frames that follow each other, the second with its true motion."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "png")
        spec = importlib.util.spec_from_file_location("clip", ROOT / "png/clip.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return list(module.frames())[11:13]


@given(st.sampled_from([(5, 7, 3), (1, 4, 1), (3, 1, 2)]), st.integers(0, 2**32 - 1))
def test_values_are_those_of_scipy(shape, seed):
    height, width, channels = shape
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(height, width, channels))
    flow = rng.normal(0, 3, (height, width, 2))
    places = np.mgrid[:height, :width] + np.moveaxis(flow[..., ::-1], -1, 0)
    expected = [
        ndimage.map_coordinates(image[..., k], places, order=1, mode="nearest")
        for k in range(channels)
    ]
    with jax.enable_x64(True):
        found = warp(jnp.asarray(image), jnp.asarray(flow))
    np.testing.assert_allclose(found, np.stack(expected, -1), atol=1e-12)


def test_each_picture_of_a_batch_has_its_own_motion():
    images = jax.random.uniform(jax.random.key(0), (2, 5, 6, 3))
    flows = jax.random.normal(jax.random.key(1), (2, 5, 6, 2))
    alone = [warp(image, flow) for image, flow in zip(images, flows, strict=True)]
    np.testing.assert_array_equal(warp(images, flows), jnp.stack(alone))


def test_the_true_motion_finds_what_is_new(clip):
    """The frame before lies over the frame, and what comes into sight is left out."""
    before, now = clip
    flow, onward = jnp.asarray(now.motion), jnp.asarray(-before.motion)
    seen = np.asarray(seen_before(flow, onward)) > 0
    assert not (seen & ~now.seen).any()
    # Ruder's rule also leaves out the border of what moves: here a pixel on each side of the boat.
    border = np.hypot(*np.gradient(now.motion[..., 0])) > 1
    near = ndimage.binary_dilation(border, iterations=2)
    assert (seen | near)[now.seen].all()
    assert 0.9 < seen.mean() < now.seen.mean()
    moved = np.asarray(warp(jnp.asarray(before.image), flow))
    # Half a pixel of linear interpolation; the frames differ by 0.12 where nothing is moved.
    assert np.abs(moved - now.image)[seen].mean() < 0.02
    assert np.abs(before.image - now.image)[seen].mean() > 0.08


def test_flows_that_do_not_lead_back_are_not_sure():
    flow = jnp.zeros((8, 8, 2)).at[..., 0].set(-1.0)
    assert seen_before(flow, -flow)[:, 1:].all()
    assert not seen_before(flow, -flow)[:, 0].any()  # it comes from outside
    # Both flows have a square of 1, so that a square of 0.52 may be left.
    for rest, sure in ((0.7, True), (0.75, False)):
        turned = (-flow).at[..., 1].set(rest)
        assert seen_before(flow, turned)[:, 1:].all() == sure


def test_a_flow_has_the_pixels_of_its_size():
    flow = jnp.ones((6, 8, 2)) * jnp.asarray([2.0, 3.0]).reshape(1, 1, 2)
    np.testing.assert_allclose(resize_flow(flow, (3, 16))[1, 1], [4.0, 1.5])
    assert resize_flow(flow, (3, 16)).shape == (3, 16, 2)
