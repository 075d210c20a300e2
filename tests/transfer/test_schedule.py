"""What a run will do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nst_jax import Config, InputError, layers
from nst_jax.transfer.schedule import make_schedule

SHALLOW = {"content_layers": layers("relu1_1"), "style_layers": ()}
SIDES = st.integers(1, 5000)
CONFIGS = [
    Config(min_size=size, style_layers=names, style_fit=fit)
    for size in (0, 12, 128)
    for names in ((), layers("relu2_1"), layers("relu1_1", "relu5_1"))
    for fit in ("longest", "shortest")
]


def scales(height, width, config):
    return [(plan.shape, plan.steps) for plan in make_schedule((height, width), [], config).scales]


def test_a_panorama_begins_at_the_first_scale_that_is_large_enough():
    config = Config()  # 16 px for relu5_1
    assert scales(51, 512, config) == [
        ((18, 181), 110),
        ((26, 256), 34),
        ((36, 362), 34),
        ((51, 512), 34),
    ]
    assert scales(512, 51, config)[0] == ((181, 18), 110)
    assert scales(16, 512, config) == [((16, 512), 110)]
    assert scales(384, 512, config)[0] == ((96, 128), 110)  # as ever


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(CONFIGS))
def test_what_is_large_enough_itself_is_so_at_every_scale(height, width, high, wide, config):
    least = config.architecture.minimum_size(config.taps)
    if min(height, width, high, wide) >= least:
        schedule = make_schedule((height, width), [(high, wide)], config)
        for plan in schedule.scales:
            assert min(plan.shape) >= least
            (seen,) = plan.styles
            assert min(seen) >= least
            assert seen[0] <= high
            assert seen[1] <= wide
        # It is the same of images that were resized before.
        assert make_schedule((height, width), schedule.last.styles, config) == schedule
    else:
        with pytest.raises(InputError, match="give a larger"):
            make_schedule((height, width), [(high, wide)], config)


@given(SIDES, SIDES, st.sampled_from(["x", "both"]), st.floats(1.05, 3))
def test_sides_that_wrap_are_whole_windows_of_all_poolings(height, width, wrap, factor):
    config = Config(wrap=wrap, scale_factor=factor, **SHALLOW)
    shapes = [shape for shape, _ in scales(height, width, config)]
    assert len(set(shapes)) == len(shapes)
    for high, wide in shapes:
        assert wide % 16 == 0
        assert high % 16 == 0 or wrap == "x"
    high, wide = shapes[-1]
    assert abs(wide - width) <= (8 if width >= 8 else 15)
    assert abs(high - height) <= (0 if wrap == "x" else 8 if height >= 8 else 15)
    # It does not matter whether the picture has been rounded before.
    assert [shape for shape, _ in scales(high, wide, config)] == shapes


@pytest.mark.parametrize("setting", ["style_size", "style_scale"])
def test_what_makes_a_style_too_small_is_named(setting):
    config = Config(**{setting: 16 if setting == "style_size" else 0.1})
    name = setting.replace("_", " ")
    said = f"the {name} leaves so little of its 96x76 px; give a larger one"
    with pytest.raises(InputError, match=said):
        make_schedule((384, 512), [(76, 96)], config)


def test_the_image_that_is_too_small_is_named():
    with pytest.raises(InputError, match=r"^b\.png: the style image: "):
        make_schedule((384, 512), [(40, 40), (9, 9)], Config(), names=("c.png", "a.png", "b.png"))
    with pytest.raises(InputError, match=r"^c\.png: the content image: "):
        make_schedule((9, 9), [(40, 40)], Config(), names=("c.png", "a.png"))
    with pytest.raises(InputError, match=r"^the content image: "):
        make_schedule((9, 9), [(40, 40)], Config())


def test_the_time_left_counts_pixels():
    config = Config(min_size=10, scale_factor=2.0, first_steps=4, steps=3, **SHALLOW)
    schedule = make_schedule((20, 20), [], config)
    assert [plan.shape for plan in schedule.scales] == [(10, 10), (20, 20)]
    assert [schedule.pixels(step) for step in (0, 1, 4, 5, 7)] == [0, 100, 400, 800, 1600]
