import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nst_jax.optimizers import minimize
from nst_jax.optimizers.lbfgs import torch_lbfgs

N = 12


def problem(seed):
    """A smooth function of N variables with curvatures from 0.3 to 30 and a quartic part."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(N, N)))[0]
    matrix = basis * np.geomspace(0.3, 30, N) @ basis.T
    return matrix, rng.normal(size=N), rng.normal(size=N)


def run(loss, start, steps, **options):
    """Return the variable after every update, the losses, and the last state."""
    minimizer = minimize.Minimizer(loss, torch_lbfgs(**options))
    state, path, losses = minimizer.init(jnp.asarray(start)), [], []
    for _ in range(steps):
        state, record = minimizer.step(state)
        path.append(np.asarray(state.variable))
        losses.append(float(record.loss))
    return np.array(path), np.array(losses), state


def run_torch(torch, loss, start, steps, *, max_iter=1, **options):
    """The same with torch; a path has one row for each call of its step."""
    x = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.LBFGS([x], max_iter=max_iter, **options)
    path, losses = [], []

    def closure():
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        losses.append(value.item())
        return value

    for _ in range(steps):
        optimizer.step(closure)
        path.append(x.detach().numpy().copy())
    return np.array(path), np.array(losses)


def both(seed, torch):
    matrix, target, start = problem(seed)

    def ours(x):
        d = x - target
        return 0.5 * d @ jnp.asarray(matrix) @ d + 0.05 * jnp.sum(d**4)

    def theirs(x):
        d = x - torch.tensor(target)
        return 0.5 * d @ torch.tensor(matrix) @ d + 0.05 * torch.sum(d**4)

    return ours, theirs, start


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    memory=st.sampled_from([1, 3, 100]),
    rate=st.sampled_from([1.0, 0.5]),
    block=st.sampled_from([1, 4]),
)
def test_follows_torch_step_by_step(torch, seed, memory, rate, block):
    with jax.enable_x64(True):
        ours, theirs, start = both(seed, torch)
        path, losses, _ = run(ours, start, 14, learning_rate=rate, memory_size=memory, block=block)
    their_path, their_losses = run_torch(torch, theirs, start, 14, lr=rate, history_size=memory)
    # Rounding of 1e-16, times what a wild step or two may amplify it by.
    np.testing.assert_allclose(path, their_path, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(losses, their_losses, rtol=1e-7, atol=1e-12)


def test_torchs_max_iter_only_groups_the_same_evaluations(torch):
    with jax.enable_x64(True):
        ours, theirs, start = both(1, torch)
        path, losses, _ = run(ours, start, 20)
    their_path, their_losses = run_torch(torch, theirs, start, 2, max_iter=10, max_eval=100)
    np.testing.assert_allclose(path[[9, 19]], their_path, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(losses, their_losses, rtol=1e-7, atol=1e-12)


def test_first_step_is_bounded_by_the_l1_norm():
    slope = np.array([3.0, -4.0])  # L1 norm 7, L2 norm 5
    path, _, _ = run(lambda x: x @ slope, np.zeros(2, np.float32), 1)
    np.testing.assert_allclose(path[0], -slope / 7, rtol=1e-6)
    path, _, _ = run(lambda x: 0.1 * x @ slope, np.zeros(2, np.float32), 1)
    np.testing.assert_allclose(path[0], -slope / 10, rtol=1e-6)  # 1/‖g‖₁ is above 1


def test_a_pair_without_curvature_is_left_out_as_in_torch(torch):
    """A concave stretch: the gradient's change points against the step."""
    with jax.enable_x64(True):
        ours = lambda x: -jnp.sum(x**2) + jnp.sum(x**4)  # noqa: E731
        path, _, state = run(ours, np.array([0.05, 0.1]), 2)
        assert state.optimizer.pairs.number == 0
        path, _, state = run(ours, np.array([0.05, 0.1]), 12)
    theirs = lambda x: -torch.sum(x**2) + torch.sum(x**4)  # noqa: E731
    their_path, _ = run_torch(torch, theirs, np.array([0.05, 0.1]), 12)
    assert 0 < state.optimizer.pairs.number < 11
    np.testing.assert_allclose(path, their_path, rtol=1e-7, atol=1e-9)


def test_tolerances_end_the_updates_where_torch_ends_them(torch):
    with jax.enable_x64(True):
        ours, theirs, start = both(3, torch)
        path, _, state = run(ours, start, 60)
    # In one call torch returns by itself.
    their_path, their_losses = run_torch(torch, theirs, start, 1, max_iter=60, max_eval=100)
    assert len(their_losses) < 60
    assert state.optimizer.stopped
    np.testing.assert_allclose(path[-1], their_path[-1], rtol=1e-6)
    np.testing.assert_array_equal(path[-1], path[-2])
    early = run(lambda x: jnp.sum((x - 3) ** 4), start, 3)[2]
    assert not early.optimizer.stopped


def test_at_a_minimum_nothing_moves_and_nothing_is_counted():
    path, _, state = run(lambda x: jnp.sum(x**2), np.zeros(3, np.float32), 3)
    assert (path == 0).all()
    assert state.optimizer.iteration == 0
    assert state.optimizer.stopped


def test_a_gradient_below_the_tolerance_moves_nothing():
    path, _, state = run(lambda x: jnp.sum(5e-8 * x), np.zeros(3, np.float32), 2)
    assert (path == 0).all()
    assert state.optimizer.iteration == 0
    path, _, _ = run(lambda x: jnp.sum(5e-4 * x), np.zeros(3, np.float32), 1)
    assert (path != 0).all()


def test_a_small_change_of_the_loss_is_told():
    """A slope so gentle that the loss does not change in its last digit, though the steps do."""
    slope = lambda x: 5 + jnp.sum(1e-4 * x)  # noqa: E731
    assert not run(slope, np.zeros(2, np.float32), 1)[2].optimizer.stopped
    path, _, state = run(slope, np.zeros(2, np.float32), 2)
    assert state.optimizer.stopped
    assert state.optimizer.iteration == 2
    assert (path[1] != path[0]).all()


def test_a_flat_spot_on_the_way_is_forgotten_as_in_torch(torch):
    slopes = np.array([[3.0, -4.0], [2.5, -3.8], [0.0, 0.0], [2.0, -3.5], [1.0, -3.0]])
    variable, path = torch.zeros(2, dtype=torch.float64, requires_grad=True), []
    theirs = torch.optim.LBFGS([variable], max_iter=1)
    with jax.enable_x64(True):
        optimizer, x = torch_lbfgs(memory_size=3), jnp.zeros(2)
        state = optimizer.init(x)
        for slope in slopes:
            updates, state = optimizer.update(jnp.asarray(slope), state, value=slope @ x)
            x = x + updates
            path.append(np.asarray(x))

            def closure(slope=slope):
                theirs.zero_grad()
                value = torch.from_numpy(slope) @ variable
                value.backward()
                return value

            theirs.step(closure)
            np.testing.assert_allclose(x, variable.detach().numpy(), rtol=1e-9)
    np.testing.assert_array_equal(path[1], path[2])
    assert (path[4] != path[3]).all()


@pytest.mark.parametrize("block", [2, 4])
def test_blocks_of_pairs_make_the_same_steps_and_their_length_is_known(block):
    """Also where the memory of three pairs is full, and no multiple of a block."""
    matrix, target, start = problem(0)

    def loss(x):
        return 0.5 * (x - target) @ jnp.asarray(matrix) @ (x - target)

    def steps(**options):
        minimizer = minimize.Minimizer(loss, torch_lbfgs(0.5, memory_size=3, **options))
        advance = jax.jit(functools.partial(minimizer.run, capacity=8))
        state = minimizer.init(jnp.asarray(start))
        compiled = advance.lower(state, 8).compile()
        return compiled(state, 8)[0], compiled.as_text()

    with jax.enable_x64(True):
        (plain, _), (blocks, text) = steps(), steps(block=block)
        assert plain.optimizer.pairs.number > 3
        np.testing.assert_array_equal(blocks.variable, plain.variable)
    # What XLA hands over to a GPU as a whole: both loops over pairs.
    known = re.findall(r'known_trip_count":{"n":"(\d+)"', text)
    assert known == [str(block)] * 2


def test_any_pytree_and_bounded_memory():
    start = {"a": jnp.ones((2, 3)), "b": jnp.full(4, 2.0)}
    bowl = lambda x: jnp.sum(x["a"] ** 2) + jnp.sum(3 * x["b"] ** 2)  # noqa: E731
    minimizer = minimize.Minimizer(bowl, torch_lbfgs(memory_size=3))
    state = minimizer.init(start)
    shapes = jax.tree.map(jnp.shape, state)
    assert state.optimizer.pairs.steps["a"].shape == (3, 2, 3)
    state, _ = minimizer.run(state, 15)
    assert bowl(state.variable) < 1e-8
    assert jax.tree.map(jnp.shape, state) == shapes


@pytest.mark.parametrize("slopes", [[0, 0, 0], [2, 2, 2], [2, 1, 1]])
@pytest.mark.parametrize("given", [True, False], ids=["with a value", "without"])
def test_no_finite_step_sets_off_jax_debug_nans(slopes, given):
    """Flat, without any change of the gradient, and with a pair."""
    optimizer, x = torch_lbfgs(memory_size=2), jnp.ones(3)
    state = optimizer.init(x)
    with jax.debug_nans(True):
        for slope in slopes:
            value = {"value": jnp.float32(slope)} if given else {}
            updates, state = optimizer.update(jnp.full(3, float(slope)), state, x, **value)
            assert jnp.isfinite(updates).all()


@pytest.mark.parametrize("rate", [1.0, jnp.ones(())], ids=["number", "array"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_types_are_kept(kind, rate, strict_dtypes):
    optimizer = torch_lbfgs(rate, memory_size=2, block=2)
    x = jnp.ones(3, kind)
    state = optimizer.init(x)
    updates, after = jax.jit(optimizer.update)(2 * x, state, x, value=jnp.float32(3))
    assert updates.dtype == x.dtype
    assert jax.tree.map(lambda a: a.dtype, after) == jax.tree.map(lambda a: a.dtype, state)
