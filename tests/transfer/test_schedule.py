"""What a run will do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nst_jax import Config, InputError, layers
from nst_jax.transfer.schedule import check_inputs, plan, style_shape

SIDES = st.integers(1, 5000)
CONFIGS = [
    Config(min_size=size, style_layers=names, style_fit=fit)
    for size in (0, 12, 128)
    for names in ((), layers("relu2_1"), layers("relu1_1", "relu5_1"))
    for fit in ("longest", "shortest")
]


def test_a_panorama_begins_at_the_first_scale_that_is_large_enough():
    config = Config()  # 16 px for relu5_1
    assert plan(51, 512, config) == (
        ((18, 181), 400),
        ((26, 256), 120),
        ((36, 362), 120),
        ((51, 512), 120),
    )
    assert plan(512, 51, config)[0] == ((181, 18), 400)
    assert plan(16, 512, config) == (((16, 512), 120),)
    assert plan(384, 512, config)[0] == ((96, 128), 400)  # as ever


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(CONFIGS))
def test_what_is_large_enough_itself_is_so_at_every_scale(height, width, high, wide, config):
    least = config.architecture.minimum_size(config.taps)
    if min(height, width, high, wide) >= least:
        check_inputs((height, width), [(high, wide)], config)
        for shape, _ in plan(height, width, config):
            assert min(shape) >= least
            seen = style_shape((high, wide), shape, config)
            assert min(seen) >= least
            assert seen[0] <= high
            assert seen[1] <= wide
    else:
        with pytest.raises(InputError, match="give a larger"):
            check_inputs((height, width), [(high, wide)], config)


@pytest.mark.parametrize("flag", ["style_size", "style_scale"])
def test_what_makes_a_style_too_small_is_named(flag):
    config = Config(**{flag: 16 if flag == "style_size" else 0.1})
    name = flag.replace("_", "-")
    said = f"--{name} leaves so little of its 96x76 px; give a larger --{name}"
    with pytest.raises(InputError, match=said):
        check_inputs((384, 512), [(76, 96)], config)
