import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax.optimizers.adam import torch_adam


def gradients(steps):
    rng = np.random.default_rng(0)
    # Sizes from 1e-9, where eps matters, to 1e3.
    return np.geomspace(1e-9, 1e3, 40) * rng.normal(size=(steps, 40))


def path(optimizer, steps, dtype):
    variable, moved = jnp.zeros(40, dtype), []
    state, update = optimizer.init(variable), jax.jit(optimizer.update)
    for gradient in gradients(steps):
        change, state = update(jnp.asarray(gradient, dtype), state, variable)
        variable = optax.apply_updates(variable, change)
        moved.append(np.asarray(variable, np.float64))
    return np.array(moved)


def torch_path(torch, steps, b1, b2):
    variable = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    adam, moved = torch.optim.Adam([variable], lr=0.1, betas=(b1, b2)), []
    for gradient in gradients(steps):
        variable.grad = torch.from_numpy(gradient)
        adam.step()
        moved.append(variable.detach().numpy().copy())
    return np.array(moved)


@pytest.mark.parametrize(("b1", "b2"), [(0.5, 0.999), (0.9, 0.99), (0.0, 0.0)])
def test_takes_torchs_steps(torch, b1, b2):
    theirs = torch_path(torch, 30, b1, b2)
    with jax.enable_x64(True):
        ours = path(torch_adam(0.1, b1=b1, b2=b2), 30, "float64")
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-12)


def test_keeps_the_digits_that_optax_loses_in_float32(torch):
    error = lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b)  # noqa: E731
    theirs = torch_path(torch, 8, 0.5, 0.999)
    ours = error(path(torch_adam(0.1, b1=0.5, b2=0.999), 8, "float32"), theirs)
    optaxs = error(path(optax.adam(0.1, b1=0.5, b2=0.999), 8, "float32"), theirs)
    assert ours < 5e-7  # a few roundings of 6e-8
    assert optaxs > 10 * ours


def test_any_pytree(strict_dtypes):
    tree = {"a": jnp.ones((2, 3)), "b": jnp.ones(4)}
    optimizer = torch_adam(0.1)
    updates, state = optimizer.update(tree, optimizer.init(tree))
    jax.tree.map(lambda u: np.testing.assert_allclose(u, -0.1, rtol=1e-6), updates)
    assert state.iteration == 1


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_types_are_kept(kind, strict_dtypes):
    optimizer, x = torch_adam(jnp.asarray(0.1, "float32")), jnp.ones(3, kind)
    state = optimizer.init(x)
    updates, after = optimizer.update(x, state, x)
    assert updates.dtype == x.dtype
    assert jax.tree.map(lambda a: a.dtype, after) == jax.tree.map(lambda a: a.dtype, state)


@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_no_finite_step_sets_off_jax_debug_nans(slope):
    optimizer, x = torch_adam(0.1), jnp.ones(3)
    state = optimizer.init(x)
    with jax.debug_nans(True):
        for _ in range(2):
            updates, state = optimizer.update(slope * x, state)
            assert jnp.isfinite(updates).all()
