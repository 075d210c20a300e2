import pytest
from hypothesis import given
from hypothesis import strategies as st

from nst_jax import architecture
from nst_jax.errors import InputError


def test_architecture_is_configuration_e():
    # Simonyan and Zisserman, arXiv 1409.1556, table 1, column E.
    assert [c.outputs for c in architecture.CONVS] == [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    assert architecture.CONVS[0].inputs == 3
    assert all(
        a.outputs == b.inputs
        for a, b in zip(architecture.CONVS, architecture.CONVS[1:], strict=False)
    )
    assert len(architecture.TAPS) == 32
    assert architecture.TAPS[:4] == ("conv1_1", "relu1_1", "conv1_2", "relu1_2")
    assert architecture.TAPS[-1] == "relu5_4"


@given(st.sampled_from(architecture.TAPS), st.integers(1, 40), st.integers(1, 40))
def test_the_named_smallest_size_is_the_smallest(tap, height, width):
    sides = [height, width]
    for _ in range(int(tap[4]) - 1):
        sides = [side // 2 for side in sides]
    if min(sides) >= 1:
        architecture.check_size(height, width, [tap])
    else:
        least = architecture.minimum_size([tap])
        with pytest.raises(InputError, match=rf"{width}x{height} px.*{tap}.*at least {least} px"):
            architecture.check_size(height, width, [tap])
