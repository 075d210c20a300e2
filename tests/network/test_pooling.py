import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax.network.pooling import pool

pytestmark = pytest.mark.optimized


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [(6, 8), (7, 9), (1, 5)])
def test_average_pooling_and_its_gradient(size, dtype):
    rng = np.random.default_rng(0)
    height, width = size
    x = jnp.asarray(rng.integers(-8, 8, (2, *size, 3)), dtype)  # exact in bfloat16
    cotangent = jnp.asarray(rng.integers(-8, 8, (2, height // 2, width // 2, 3)), dtype)
    pooled, pull = jax.vjp(lambda x: pool(x, "average"), x)
    even = np.float32(x)[:, : height // 2 * 2, : width // 2 * 2]
    windows = even.reshape(2, height // 2, 2, width // 2, 2, 3)
    np.testing.assert_array_equal(np.float32(pooled), windows.mean((2, 4)))
    expected = np.zeros(x.shape, np.float32)
    for i in range(height // 2 * 2):
        for j in range(width // 2 * 2):
            expected[:, i, j] = np.float32(cotangent)[:, i // 2, j // 2] / 4
    np.testing.assert_array_equal(np.float32(pull(cotangent)[0]), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [(6, 8), (7, 9), (1, 5)])
def test_max_pooling_and_its_gradient(size, dtype):
    """Few values, so that most windows have equal ones: the first of them takes the gradient."""
    rng = np.random.default_rng(0)
    height, width = size
    x = jnp.asarray(rng.integers(0, 2, (2, *size, 3)), dtype)
    cotangent = jnp.asarray(rng.integers(-8, 8, (2, height // 2, width // 2, 3)), dtype)
    pooled, pull = jax.vjp(lambda x: pool(x, "max"), x)
    expected, gradient = np.zeros(pooled.shape, np.float32), np.zeros(x.shape, np.float32)
    for n, i, j, c in np.ndindex(pooled.shape):
        window = np.float32(x)[n, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        expected[n, i, j, c] = window.max()
        row, column = divmod(int(window.argmax()), 2)
        gradient[n, 2 * i + row, 2 * j + column, c] = cotangent[n, i, j, c]
    np.testing.assert_array_equal(np.float32(pooled), expected)
    np.testing.assert_array_equal(np.float32(pull(cotangent)[0]), gradient)


def test_a_window_of_no_number_stays_one():
    x = jnp.full((1, 2, 2, 1), jnp.nan)
    assert np.isnan(pool(x, "max")).all()


@pytest.mark.parametrize("kind", ["average", "max"])
def test_on_a_tpu_the_gradient_is_the_same_without_dimensions_of_two(kind, monkeypatch):
    """There the last two dimensions are filled up to tiles of at least 8x128."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 3, (1, 9, 12, 8)), "float32")
    cotangent = jnp.asarray(rng.integers(-8, 8, (1, 4, 6, 8)), "float32")

    def gradient(x, cotangent):
        return jax.vjp(lambda x: pool(x, kind), x)[1](cotangent)[0]

    here = gradient(x, cotangent)
    lowered = jax.jit(gradient).trace(x, cotangent).lower(lowering_platforms=("tpu",)).as_text()
    assert "x2x8xf32" not in lowered
    assert "x2x8xf32" in jax.jit(gradient).lower(x, cotangent).as_text()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, tpu, default: tpu(*args))
    np.testing.assert_array_equal(gradient(x, cotangent), here)
