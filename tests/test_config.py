import dataclasses
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax.config import (
    Config,
    Layer,
    LayerBlend,
    SettingError,
    format_setting,
    layers,
    plain_settings,
)
from nst_jax.errors import InputError
from nst_jax.geometry import SIZES

LAYERS = "layers with weights, as relu1_1:256,relu2_1:64"


def test_settings_are_frozen_and_hashable():
    assert len({Config(), Config(), Config(steps=3)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().steps = 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        *(("size", x, f"size is {x!r}; it must be {SIZES}") for x in (0, 1.5, True, "0x9", "0MP")),
        ("steps", -1, "steps is -1; it must be at least 1"),
        ("steps", 1.5, "steps is 1.5; it must be a whole number"),
        ("learning_rate", 0.0, "learning_rate is 0.0; it must be above 0"),
        ("learning_rate", math.nan, "learning_rate is nan; it must be above 0"),
        ("style_weight", math.inf, "style_weight is inf; it must be at least 0"),
        ("content_weight", -1.0, "content_weight is -1.0; it must be at least 0"),
        ("beta2", 1.0, "beta2 is 1.0; it must be at least 0 and below 1"),
        ("pooling", "mean", "pooling is 'mean'; allowed are average, max, l2"),
        (
            "precision",
            "half",
            "precision is 'half'; allowed are auto, float32, tf32, bfloat16, float64",
        ),
        ("conv", "fft", "conv is 'fft'; allowed are auto, direct, winograd"),
        ("seed", -1, "seed is -1; it must be at least 0 and below 4294967296"),
        ("steps", "100", "steps is '100'; it must be a whole number"),
        ("steps", True, "steps is True; it must be a whole number"),
        ("steps", None, "steps is None; it must be a whole number"),
        ("seed", np.int64(-5), "seed is -5; it must be at least 0 and below 4294967296"),
        ("tv_weight", "1", "tv_weight is '1'; it must be a number"),
        ("clamp", 5, "clamp is 5; it must be True or False"),
        ("pooling", 3, "pooling is 3; allowed are average, max, l2"),
        ("optimizer", None, "optimizer is None; allowed are adam, lbfgs, lbfgs-torch"),
        ("style_blend", 2.0, "style_blend is 2.0; it must be numbers, as 2,1"),
        ("style_blend", "2;1", "style_blend is '2;1'; it must be numbers, as 2,1"),
        ("style_blend", (True,), "style_blend is (True,); it must be numbers, as 2,1"),
        *(
            ("style_layers", x, f"style_layers is {x!r}; it must be {LAYERS}")
            for x in (
                "relu1_1:much",
                (("relu1_1", "2"),),
                (("relu1_1", True),),
                (("relu1_1", 1.0, 2.0),),
                ((),),
                (4,),
                4,
                None,
            )
        ),
    ],
)
def test_values_out_of_range(unchecked, name, value, message):
    with pytest.raises(InputError) as error:
        Config(**{name: value})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("given", "device", "precision", "conv"),
    [
        ({}, ("cpu",), "float32", "winograd"),
        ({}, ("gpu", 9.0), "bfloat16", "direct"),
        ({}, ("gpu", 8.0), "bfloat16", "direct"),
        ({}, ("gpu", 7.5), "float32", "direct"),
        ({}, ("gpu", None), "bfloat16", "direct"),
        ({}, ("rocm",), "bfloat16", "direct"),
        ({}, ("tpu",), "bfloat16", "direct"),
        ({}, ("METAL",), "float32", "direct"),
        ({"precision": "bfloat16"}, ("cpu",), "bfloat16", "winograd"),
        ({"precision": "float64"}, ("cpu",), "float64", "direct"),
        ({"precision": "float64", "conv": "winograd"}, ("cpu",), "float64", "winograd"),
        ({"conv": "direct"}, ("cpu",), "float32", "direct"),
        ({"conv": "winograd"}, ("gpu", 9.0), "float32", "winograd"),
        ({"precision": "float32"}, ("tpu",), "float32", "direct"),
        ({"precision": "tf32"}, ("gpu", 8.0), "tf32", "direct"),
        ({"precision": "bfloat16"}, ("gpu", 7.0), "bfloat16", "direct"),
    ],
)
def test_auto_is_what_suits_the_device(given, device, precision, conv):
    platform, *capability = device
    config = Config(steps=7, **given)
    resolved = config.resolve(platform, **({"capability": capability[0]} if capability else {}))
    expected = dataclasses.replace(config, precision=precision, conv=conv, remat="none")
    assert dataclasses.asdict(resolved) == dataclasses.asdict(expected)
    assert resolved.resolve("tpu" if precision != "tf32" else "gpu") == resolved


@pytest.mark.parametrize(
    ("precision", "dtype", "image_dtype", "products"),
    [
        ("float32", "float32", "float32", "highest"),
        ("tf32", "float32", "float32", "tensorfloat32"),
        ("bfloat16", "bfloat16", "float32", None),
        ("float64", "float64", "float64", "highest"),
    ],
)
def test_a_precision_is_types_and_a_way_to_multiply(precision, dtype, image_dtype, products):
    config = Config(precision=precision)
    assert (config.dtype, config.image_dtype) == (dtype, image_dtype)
    assert config.matmul_precision == products


def test_auto_has_no_type_before_a_device_is_named():
    for name in ("dtype", "image_dtype", "matmul_precision"):
        with pytest.raises(InputError, match=r"precision is auto; Config\.resolve"):
            getattr(Config(), name)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (("cpu", None), "a cpu does not have; allowed are float32, bfloat16 and float64"),
        (("tpu", None), "a tpu does not have"),
        (("gpu", 7.5), "a GPU of compute capability 7.5 does not have"),
    ],
)
def test_tf32_is_refused_where_there_is_none(device, said):
    with pytest.raises(InputError, match=f"precision is tf32, which {said}"):
        Config(precision="tf32").resolve(device[0], capability=device[1])


def test_winograd_is_refused_where_nobody_has_measured_it():
    with pytest.raises(InputError, match="bfloat16 and float64, but precision is tf32"):
        Config(conv="winograd", precision="tf32")


def test_every_setting_says_what_it_is():
    for setting in dataclasses.fields(Config):
        assert setting.metadata["help"]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "given",
    [
        "relu1_1:64,relu2_1",
        " relu1_1 : 64.0, relu2_1:1",
        {"relu1_1": 64, "relu2_1": 1.0},
        ("relu1_1:64", "relu2_1"),
        ["relu1_1:64", Layer("relu2_1")],
        (("relu1_1", 64.0), ("relu2_1",)),
        [["relu1_1", 64], "relu2_1"],
        {"relu1_1": np.float32(64), "relu2_1": jnp.ones(())},
        (Layer("relu1_1", np.array(64)), ("relu2_1", np.int64(1))),
    ],
)
def test_layers_may_be_given_as_people_write_them(given):
    config = Config(style_layers=given)
    assert config == Config(style_layers=layers("relu2_1", relu1_1=64.0)[::-1])
    assert hash(config) == hash(Config(style_layers=layers("relu2_1", relu1_1=64.0)[::-1]))
    for layer in config.style_layers:
        assert (type(layer), type(layer.name)) == (Layer, str)
        assert type(layer.weight) in (int, float)


@pytest.mark.usefixtures("unchecked")
def test_layers_given_as_text_are_checked_like_others():
    assert Config(content_layers="relu4_2").content_layers == layers("relu4_2")
    assert Config(content_layers="none").content_layers == ()
    for given in (["zz"], "zz", {"zz": 1}):
        with pytest.raises(InputError, match="style_layers: unknown VGG-19 layer: 'zz'"):
            Config(style_layers=given)
    with pytest.raises(InputError, match="style_layers names a layer twice: relu1_1, relu1_1"):
        Config(style_layers="relu1_1,relu1_1:2")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "given", ["2,1", [2, 1.0], (np.float32(2), np.array(1)), [jnp.array(2.0), np.int8(1)]]
)
def test_shares_may_be_given_as_people_write_them(given):
    blend = Config(style_blend=given).style_blend
    assert blend == (2, 1)
    assert all(type(share) in (int, float) for share in blend)
    assert Config(style_blend="none").style_blend == Config(style_blend="").style_blend == ()


@pytest.mark.usefixtures("unchecked")
def test_shares_of_layers_may_be_given_as_people_write_them():
    wanted = (LayerBlend("relu4_1", (0.0, 1.0)), LayerBlend("relu1_1", (2.0, 1.0)))
    for given in ("relu4_1:0:1,relu1_1:2:1", {"relu4_1": [0, 1], "relu1_1": (2, 1)}, wanted):
        config = Config(style_layer_blend=given)
        assert config.style_layer_blend == wanted
        assert Config(**plain_settings(config)) == config
    assert format_setting(wanted) == "relu4_1:0:1,relu1_1:2:1"


@pytest.mark.parametrize("kind", [lambda x: x.dtype.type(x), np.asarray, jnp.asarray])
def test_numbers_may_be_arrays_of_one_number(unchecked, kind):
    given = {"steps": np.array(3), "tv_weight": np.array(0.5), "clamp": np.array(False)}
    config = Config(**{name: kind(value) for name, value in given.items()})
    assert (config.steps, config.tv_weight, config.clamp) == (3, 0.5, False)
    assert [type(x) for x in (config.steps, config.tv_weight, config.clamp)] == [int, float, bool]
    assert hash(config) == hash(Config(steps=3, tv_weight=0.5, clamp=False))
    for name, value in (("steps", 0.5), ("steps", [3]), ("clamp", 1), ("tv_weight", True)):
        with pytest.raises(InputError, match=f"^{name} is "):
            Config(**{name: kind(np.array(value))})


def test_layers_are_named_with_and_without_weights():
    assert layers("relu1_1", relu2_1=3.0) == (Layer("relu1_1", 1.0), Layer("relu2_1", 3.0))
    assert Config(style_layers=layers("relu1_1")) == Config(style_layers=(Layer("relu1_1"),))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("style_layers", layers("relu7_1"), "unknown VGG-19 layer: 'relu7_1'"),
        ("content_layers", layers("relu1_1", "relu1_1"), "content_layers names a layer twice"),
        ("style_layers", layers(relu1_1=-1.0), "style_layers gives relu1_1 the weight -1.0"),
        ("style_layers", layers(relu1_1=math.nan), "the weight nan; it must be at least 0"),
        ("style_blend", (1.0, -2.0), "style_blend is 1.0,-2.0; shares must be at least 0"),
        ("style_blend", (0.0, 0.0), "shares must be at least 0, and one of them above 0"),
        ("style_layer_blend", {"relu4_1": (0.0, 0.0)}, "shares must be at least 0, and one of"),
        ("style_layer_blend", "relu4_1", "style_layer_blend is none; shares must be at least 0"),
        ("style_layer_blend", "relu4_1:1,relu4_1:2", "style_layer_blend names a layer twice"),
        ("style_layer_blend", "relu4_2:0:1", "relu4_2, which is no style layer; allowed are relu1"),
        ("style_layer_blend", "relu4_1:x", "it must be layers with shares, as relu4_1:0:1,relu5"),
        ("scale_factor", 1.0, "scale_factor is 1.0; it must be above 1"),
        ("start_blend", 1.5, "start_blend is 1.5; it must be at least 0 and at most 1"),
    ],
)
def test_layers_and_shares_out_of_range(name, value, message):
    with pytest.raises(InputError, match=re.escape(message)):
        Config(**{name: value})


@pytest.mark.usefixtures("unchecked")
def test_a_resolved_config_leaves_nothing_to_be_chosen():
    for name in ("precision", "conv", "remat"):
        with pytest.raises(InputError, match=f"{name} is 'auto'; allowed are"):
            dataclasses.replace(Config().resolve("cpu"), **{name: "auto"})


@pytest.mark.parametrize(
    ("make", "in_python", "in_flags"),
    [
        (
            lambda: Config(style_weight=-1.0),
            "style_weight is -1.0; it must be at least 0",
            "--style-weight is -1.0; it must be at least 0",
        ),
        (
            lambda: Config(conv="winograd", precision="tf32"),
            "conv is winograd, which is for float32, ",
            "--conv is winograd, which is for float32, ",
        ),
        (
            lambda: Config(style_fit="stretch").check_given(["style_size"]),
            "style_size is for the style fit longest or shortest, but the style fit is stretch; ",
            "--style-size is for the style fit longest or shortest, but the style fit is stretch; ",
        ),
        (
            lambda: Config(size="9x8").check_given(["side"]),
            "side is for a size in px of one side, but the size is 9x8; leave it out",
            "--side is for a size in px of one side, but the size is 9x8; leave it out",
        ),
    ],
)
def test_a_mistake_names_the_setting_as_its_reader_does(make, in_python, in_flags):
    with pytest.raises(SettingError) as error:
        make()
    assert str(error.value).startswith(in_python)
    assert error.value.in_flags.startswith(in_flags)
