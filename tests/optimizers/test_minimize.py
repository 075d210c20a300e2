import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax.optimizers import minimize


def rosenbrock(xy):
    value = (1 - xy[0]) ** 2 + 100 * (xy[1] - xy[0] ** 2) ** 2
    return value, {"value": value, "x": xy[0], "count": jnp.asarray(1)}


START = np.array([-1.0, 1.0])


def test_adam_follows_torch(torch):
    with jax.enable_x64(True):
        optimizer = optax.adam(0.02, b1=0.5, b2=0.999, eps=1e-8)
        state = minimize.init(jnp.asarray(START), optimizer=optimizer)
        advance = jax.jit(
            functools.partial(minimize.run, loss=rosenbrock, optimizer=optimizer, capacity=100)
        )
        state, records = advance(state, 100)
    x = torch.tensor(START, requires_grad=True)
    adam = torch.optim.Adam([x], lr=0.02, betas=(0.5, 0.999))
    values = []
    for _ in range(100):
        adam.zero_grad()
        value = rosenbrock_torch(x)
        value.backward()
        adam.step()
        values.append(value.item())
    np.testing.assert_allclose(records["value"], values, rtol=1e-9)
    np.testing.assert_allclose(state.variable, x.detach().numpy(), rtol=1e-9)
    assert state.step == 100


def rosenbrock_torch(xy):
    return (1 - xy[0]) ** 2 + 100 * (xy[1] - xy[0] ** 2) ** 2


def test_chunks_of_any_length_share_one_program_and_make_one_trajectory():
    optimizer = optax.adam(0.02)
    traces = 0

    def counted(xy):
        nonlocal traces
        traces += 1
        return rosenbrock(xy)

    advance = jax.jit(
        functools.partial(minimize.run, loss=counted, optimizer=optimizer, capacity=16)
    )
    start = minimize.init(jnp.asarray(START, np.float32), optimizer=optimizer)
    whole, records = advance(start, 12)
    before = traces
    state, values = start, []
    for steps in (1, 4, 7):
        state, part = advance(state, steps)
        values.append(part["value"][:steps])
        assert (part["value"][steps:] == 0).all()
        assert (part["count"][steps:] == 0).all()
    assert traces == before
    np.testing.assert_array_equal(np.concatenate(values), records["value"][:12])
    jax.tree.map(np.testing.assert_array_equal, state, whole)


@pytest.mark.parametrize("steps", [0, 3, 4, 14])
def test_blocks_make_the_same_steps_and_their_length_is_known(steps):
    optimizer = optax.adam(0.02)
    start = minimize.init(jnp.asarray(START, np.float32), optimizer=optimizer)

    def advance(**block):
        traces = []

        def loss(xy):
            traces.append(xy)
            value, auxiliary = rosenbrock(xy)
            return value, {**auxiliary, "both": jnp.stack([xy, 2 * xy])}

        run = functools.partial(minimize.run, loss=loss, optimizer=optimizer, capacity=16, **block)
        return jax.jit(run).lower(start, steps).compile(), len(traces)

    (plain, traces), (compiled, again) = advance(), advance(block=4)
    whole = plain(start, steps)
    jax.tree.map(np.testing.assert_array_equal, compiled(start, steps), whole)
    assert whole[1]["both"].shape == (16, 2, 2)
    assert again == traces  # not once more for the rest of the steps
    # What XLA hands over to a GPU as a whole: no other loop has a length that it knows.
    assert re.findall(r'known_trip_count":{"n":"(\d+)"', compiled.as_text()) == ["4"]


def test_records_of_many_values_are_written_at_once():
    optimizer = optax.sgd(0.1)
    loss = lambda x: (x**2, [x, x + 1, x + 2, jnp.int32(3), jnp.int32(4)])  # noqa: E731
    start = minimize.init(jnp.asarray(1.0), optimizer=optimizer)
    run = functools.partial(minimize.run, loss=loss, optimizer=optimizer, capacity=2)
    text = jax.jit(run).lower(start, 2).as_text()
    assert text.count('"stablehlo.scatter"(') == 2  # one of each type
    _, records = run(start, 1)
    first, *_, last = records
    np.testing.assert_array_equal(first, [1, 0])
    np.testing.assert_array_equal(last, [4, 0])
    assert (first.dtype, last.dtype) == (np.float32, np.int32)


def test_records_belong_to_the_variable_before_the_update():
    optimizer = optax.sgd(1e-3)
    start = minimize.init(jnp.asarray(START, np.float32), optimizer=optimizer)
    state, auxiliary = minimize.step(start, loss=rosenbrock, optimizer=optimizer)
    assert auxiliary["x"] == START[0]
    assert state.variable[0] != START[0]
    assert state.step == 1


@pytest.mark.parametrize("optimizer", [optax.lbfgs(), optax.adamw(0.1), optax.sgd(0.1)])
def test_one_code_path_for_every_optimizer(optimizer):
    bowl = lambda x: (jnp.sum((x - 1) ** 2), None)  # noqa: E731
    advance = jax.jit(functools.partial(minimize.run, loss=bowl, optimizer=optimizer, capacity=60))
    state, _ = advance(minimize.init(jnp.asarray(START), optimizer=optimizer), 60)
    assert bowl(state.variable)[0] < 1e-2


def test_the_capacity_is_the_number_of_steps_where_that_is_known():
    loss = lambda x: (x**2, x)  # noqa: E731
    optimizer = optax.sgd(0.1)
    state = minimize.init(jnp.asarray(1.0), optimizer=optimizer)
    _, records = minimize.run(state, 3, loss=loss, optimizer=optimizer)
    np.testing.assert_allclose(records, [1, 0.8, 0.64], rtol=1e-6)
    with pytest.raises(TypeError, match="give the capacity too"):
        jax.jit(lambda steps: minimize.run(state, steps, loss=loss, optimizer=optimizer))(3)
