"""Images come as arrays of many libraries."""

import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from nst_jax import (
    VGG19,
    InputError,
    describe_style,
    make_targets,
    perceptual_loss,
    save_image,
    stylize,
)
from nst_jax.config import Config, layers
from nst_jax.io.arrays import as_image, digest

IMAGE = np.random.default_rng(0).uniform(size=(6, 8, 3)).astype(np.float32)


def features(image):
    return {"pixels": image}


def targets(content, style):
    names = {"content_layers": ["pixels"], "style_layers": ["pixels"]}
    return make_targets(features, content, style, **names)


def job(content, styles, **options):
    network = VGG19(rngs=None, deepest="relu1_1")
    config = Config(min_size=0, style_layers=layers("relu1_1"), content_layers=layers("relu1_1"))
    stylize(content, styles, network=network, config=config, **options).close()


# Every public function that takes an image, each place where it takes one.
TAKERS = {
    "content of stylize": lambda image, _: job(image, IMAGE),
    "style of stylize": lambda image, _: job(IMAGE, [IMAGE, image]),
    "start of stylize": lambda image, _: job(IMAGE, IMAGE, start=image),
    "content of make_targets": lambda image, _: targets(image, IMAGE),
    "style of make_targets": lambda image, _: targets(IMAGE, image),
    "describe_style": lambda image, _: describe_style(features, image, layers=["pixels"]),
    "contents of perceptual_loss": lambda image, _: perceptual_loss(
        IMAGE, image, features=features, content_layers=["pixels"]
    ),
    "save_image": lambda image, folder: save_image(folder / "a.png", image),
}


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, np.float64, jnp.bfloat16, np.float16])
def test_any_float_array_becomes_one_of_jax(make):
    found = as_image(make(IMAGE), role="content")
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, IMAGE, atol=0.004)  # a rounding of bfloat16


def test_a_later_change_of_the_array_changes_nothing():
    for _ in range(20):  # JAX's own copies come late, but not each time
        image = np.full((512, 512, 3), 0.5, np.float32)
        found = as_image(image, role="content")
        image[:] = 0
        assert float(found.min()) == 0.5


def test_tensors_of_torch(torch):
    tensor = torch.tensor(IMAGE)  # in memory of its own, aligned so that JAX could use it
    found = as_image(tensor, role="content")
    slices = as_image(tensor[:, ::2], role="content")
    turned = as_image(torch.from_numpy(IMAGE.transpose(2, 0, 1).copy()).permute(1, 2, 0), role="x")
    narrow = as_image(tensor.bfloat16(), role="content")
    tensor.zero_()
    np.testing.assert_array_equal(found, IMAGE)
    np.testing.assert_array_equal(slices, IMAGE[:, ::2])
    np.testing.assert_array_equal(turned, IMAGE)
    np.testing.assert_allclose(narrow, IMAGE, atol=0.004)


def test_tensors_are_bound_to_no_device(torch):
    """What is bound would have programs of its own."""
    found = as_image(torch.tensor(IMAGE), role="content")
    assert not found.committed


def test_a_tensor_with_a_gradient_is_refused_with_torchs_advice(torch):
    with pytest.raises(InputError, match=r"the style image cannot be read as an array: .*detach"):
        as_image(torch.from_numpy(IMAGE.copy()).requires_grad_(), role="style")
    with pytest.raises(InputError, match="the style image cannot be read as an array"):
        as_image(torch.zeros((6, 8, 3), dtype=torch.bfloat16)[:, ::2], role="style")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (IMAGE.transpose(2, 0, 1), "move the channels to the last axis"),
        ((IMAGE * 255).astype(np.uint8), "divide levels by 255"),
        (IMAGE[..., 0], r"float32\[6, 8\]; allowed are floats in \[0, 1\] of shape"),
        (IMAGE[:0], r"float32\[0, 8, 3\]; allowed are"),
    ],
)
def test_others_are_refused_in_one_line(image, said):
    with pytest.raises(InputError, match=said) as caught:
        as_image(image, role="content")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("a.png", "is 'a.png', a str; load it with load_image first"),
        (Path("a.png"), "a PosixPath; load it"),
        (b"PNG", "a bytes; load it"),
        (None, "is a NoneType; allowed are floats in"),
        ([[0.1], [0.2, 0.3]], "is a list; allowed are floats in"),
        ({"image": IMAGE}, "is a dict; allowed are"),
        (Image.fromarray((IMAGE * 255).astype(np.uint8)), "divide levels by 255"),
    ],
)
def test_what_is_no_array_is_refused_in_one_line(image, said):
    unchecked = inspect.unwrap(as_image)  # without the type checker that the tests add
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        unchecked(image, role="content")
    assert "\n" not in str(caught.value)


def spoiled(value):
    return np.where(np.arange(IMAGE.size).reshape(IMAGE.shape) == 7, np.float32(value), IMAGE)


WRONG = [
    (255 * IMAGE, r"values from \S+ to 25\S+; allowed are sRGB values in \[0, 1\]: divide"),
    (4 * IMAGE - 2, r"values from -1\.\S+ to 1\.\S+; .*: undo the normalization"),
    (spoiled(np.nan), "values that are infinite or not a number; allowed are sRGB values"),
    (spoiled(np.inf), "infinite or not a number"),
    (spoiled(-np.inf), "infinite or not a number"),
    (spoiled(1.51), r"to 1\.51; "),
    (spoiled(-0.51), r"from -0\.51 to "),
]


@pytest.mark.parametrize("taker", list(TAKERS))
@pytest.mark.parametrize(("image", "said"), WRONG)
def test_every_function_that_takes_an_image_looks_at_its_values(taker, image, said, tmp_path):
    for make in (np.asarray, jnp.asarray):
        with pytest.raises(InputError, match=f"image has .*{said}"):
            TAKERS[taker](make(image), tmp_path)
    for value in (-0.5, 1.5):  # as a filter overshoots
        TAKERS[taker](spoiled(value), tmp_path)


def test_values_are_not_looked_at_where_jax_traces():
    found = jax.jit(lambda image: targets(image, IMAGE))(255 * IMAGE)
    np.testing.assert_array_equal(found.content["pixels"], 255 * IMAGE)


def test_torch_in_is_the_same_picture(torch, random_params):
    from nst_jax import build_vgg19

    network = build_vgg19(random_params, deepest="relu1_2")
    config = Config(
        steps=2, min_size=0, style_layers=layers("relu1_1"), content_layers=layers("relu1_2")
    )
    pictures = [
        [*stylize(make(IMAGE), [make(IMAGE[::-1].copy())], network=network, config=config)][-1]
        for make in (np.asarray, lambda x: torch.from_numpy(x.copy()))
    ]
    np.testing.assert_array_equal(pictures[0].image, pictures[1].image)


def test_narrow_images_do_not_make_a_narrow_run(random_params):
    from nst_jax import build_vgg19

    network = build_vgg19(random_params, deepest="relu1_2")
    config = Config(
        steps=1, min_size=0, style_layers=layers("relu1_1"), content_layers=layers("relu1_2")
    )
    *_, last = stylize(jnp.bfloat16(IMAGE), jnp.bfloat16(IMAGE), network=network, config=config)
    assert last.image.dtype == jnp.float32
    assert last.losses.total.dtype == np.float32


def test_a_digest_is_of_values_types_shapes_and_places():
    half = np.full((2, 3), 0.5, np.float32)
    others = (half + 1, half.T, half.astype(jnp.bfloat16), half.astype(np.float64), half[0])
    trees = [{"a": half}, {"b": half}, [half], [half, half], *([each] for each in others)]
    assert len({digest(tree) for tree in trees}) == len(trees)
    assert digest({"a": jnp.asarray(half)}) == digest({"a": half.copy()})
