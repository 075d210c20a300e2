import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax import Minimizer, average
from nst_jax.optimizers.minimize import run_steps


def rosenbrock(xy):
    value = (1 - xy[0]) ** 2 + 100 * (xy[1] - xy[0] ** 2) ** 2
    return value, {"value": value, "x": xy[0], "count": jnp.asarray(1)}


START = np.array([-1.0, 1.0])


def minimizer_of(loss=rosenbrock, optimizer=None, **options):
    return Minimizer(loss, optimizer or optax.adam(0.02), has_aux=True, **options)


def test_adam_follows_torch(torch):
    with jax.enable_x64(True):
        minimizer = minimizer_of(optimizer=optax.adam(0.02, b1=0.5, b2=0.999, eps=1e-8))
        state, record = minimizer.run(minimizer.init(jnp.asarray(START)), 100)
    x = torch.tensor(START, requires_grad=True)
    adam = torch.optim.Adam([x], lr=0.02, betas=(0.5, 0.999))
    values = []
    for _ in range(100):
        adam.zero_grad()
        value = rosenbrock_torch(x)
        value.backward()
        adam.step()
        values.append(value.item())
    np.testing.assert_allclose(record.aux["value"], values, rtol=1e-9)
    np.testing.assert_array_equal(record.loss, record.aux["value"])
    np.testing.assert_allclose(state.variable, x.detach().numpy(), rtol=1e-9)
    assert state.step == 100


def rosenbrock_torch(xy):
    return (1 - xy[0]) ** 2 + 100 * (xy[1] - xy[0] ** 2) ** 2


def test_chunks_of_any_length_share_one_program_and_make_one_trajectory():
    traces = 0

    def counted(xy):
        nonlocal traces
        traces += 1
        return rosenbrock(xy)

    minimizer = minimizer_of(counted)
    start = minimizer.init(jnp.asarray(START, np.float32))
    whole, record = minimizer.run(start, 12)  # the capacity is 16
    before = traces
    state, values = start, []
    for steps in (9, 1, 2):
        state, part = minimizer.run(state, steps, capacity=16)
        assert part.loss.shape == part.aux["count"].shape == (steps,)
        values.append(part.loss)
    assert traces == before
    np.testing.assert_array_equal(np.concatenate(values), record.loss)
    jax.tree.map(np.testing.assert_array_equal, state, whole)


def test_arguments_of_the_loss_are_no_part_of_the_program():
    traces = []

    def loss(x, goal):
        traces.append(goal)
        return jnp.sum((x - goal["at"]) ** 2)

    minimizer = Minimizer(loss, optax.sgd(0.25))

    def end(minimizer, goal):
        state, record = minimizer.run(minimizer.init(jnp.zeros(2)), 2, {"at": jnp.asarray(goal)})
        assert record.aux is None
        return state.variable.tolist()

    assert end(minimizer, 1.0) == [0.75, 0.75]
    before = len(traces)
    assert end(minimizer, 3.0) == [2.25, 2.25]
    assert end(Minimizer(loss, minimizer.optimizer), 3.0) == [2.25, 2.25]  # an equal one
    assert len(traces) == before


@pytest.mark.parametrize("steps", [0, 3, 4, 14])
def test_blocks_make_the_same_steps_and_their_length_is_known(steps):
    start = minimizer_of().init(jnp.asarray(START, np.float32))

    def advance(block):
        traces = []

        def loss(xy):
            traces.append(xy)
            value, auxiliary = rosenbrock(xy)
            return value, {**auxiliary, "both": jnp.stack([xy, 2 * xy])}

        run = functools.partial(run_steps, minimizer_of(loss), args=(), capacity=16, block=block)
        return jax.jit(run).lower(start, steps).compile(), len(traces)

    (plain, traces), (compiled, again) = advance(1), advance(4)
    whole = plain(start, steps)
    jax.tree.map(np.testing.assert_array_equal, compiled(start, steps), whole)
    assert whole[1].aux["both"].shape == (16, 2, 2)
    assert not whole[1].loss[steps:].any()
    assert again == traces  # not once more for the rest of the steps
    # What XLA hands over to a GPU as a whole: no other loop has a length that it knows.
    assert re.findall(r'known_trip_count":{"n":"(\d+)"', compiled.as_text()) == ["4"]


def test_records_of_many_values_are_written_at_once():
    loss = lambda x: (x**2, [x, x + 1, x + 2, jnp.int32(3), jnp.int32(4)])  # noqa: E731
    minimizer = minimizer_of(loss, optax.sgd(0.1))
    start = minimizer.init(jnp.asarray(1.0))
    run = functools.partial(run_steps, minimizer, args=(), capacity=2, block=1)
    text = jax.jit(run).lower(start, 2).as_text()
    assert text.count('"stablehlo.scatter"(') == 2  # one of each type
    _, record = run(start, 1)
    first, *_, last = record.aux
    np.testing.assert_array_equal(first, [1, 0])
    np.testing.assert_array_equal(last, [4, 0])
    assert (first.dtype, last.dtype) == (np.float32, np.int32)


def test_records_belong_to_the_variable_before_the_update():
    minimizer = minimizer_of(optimizer=optax.sgd(1e-3))
    state, record = minimizer.step(minimizer.init(jnp.asarray(START, np.float32)))
    assert record.aux["x"] == START[0]
    assert state.variable[0] != START[0]
    assert state.step == 1


@pytest.mark.parametrize("optimizer", [optax.lbfgs(), optax.adamw(0.1), optax.sgd(0.1)])
def test_one_code_path_for_every_optimizer(optimizer):
    bowl = lambda x: jnp.sum((x - 1) ** 2)  # noqa: E731
    minimizer = Minimizer(bowl, optimizer)
    state, _ = minimizer.run(minimizer.init(jnp.asarray(START)), 60)
    assert bowl(state.variable) < 1e-2


def test_the_rule_of_the_iterates_is_the_minimizers_own():
    minimizer = Minimizer(lambda x: jnp.sum(x**2), optax.sgd(0.25), iterates=average(0.5))
    state, _ = minimizer.run(minimizer.init(jnp.ones(1)), 2)
    # Iterates 1, 1/2, 1/4 with the weights 1/8, 1/4, 1/2.
    np.testing.assert_allclose(minimizer.read(state), [(1 / 8 + 1 / 8 + 1 / 8) / (7 / 8)])


def test_donation_leaves_the_callers_variable():
    minimizer = Minimizer(lambda x: jnp.sum(x**2), optax.sgd(0.25))
    image = jnp.ones((4, 4))
    state = minimizer.init(image)
    jax.jit(minimizer.run, static_argnums=1, donate_argnums=0)(state, 2)
    assert not image.is_deleted()
    assert image.sum() == 16


def test_an_array_of_steps_needs_a_capacity():
    minimizer = Minimizer(lambda x: x**2, optax.sgd(0.1))
    state = minimizer.init(jnp.asarray(1.0))
    with pytest.raises(TypeError, match="give the capacity too"):
        jax.jit(lambda steps: minimizer.run(state, steps))(3)
    _, record = jax.jit(lambda steps: minimizer.run(state, steps, capacity=4))(3)
    np.testing.assert_allclose(record.loss, [1, 0.64, 0.4096, 0], rtol=1e-6)


@pytest.mark.parametrize(
    "optimizer", [optax.adam(0.1), optax.lbfgs(memory_size=2), optax.adamw(0.1)]
)
def test_where_types_are_strict(optimizer):
    minimizer = Minimizer(lambda x: jnp.sum(x**2), optimizer, iterates=average(0.9))
    with jax.numpy_dtype_promotion("strict"):
        state, record = minimizer.run(minimizer.init(jnp.ones(3)), 3)
        assert minimizer.read(state).dtype == jnp.float32
    assert record.loss[-1] < record.loss[0]
