import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax.pooling import pool


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
