import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax.linear import linear_call


def multiply(matrix, x):
    return jnp.sin(matrix) @ x


def back(matrix, y):
    return jnp.sin(matrix).T @ y


def thrice(matrix, y):
    return 3 * back(matrix, y)


def ours(matrix, x):
    return linear_call(multiply, back, matrix, x)


def square(function):
    return lambda matrix, x: (function(matrix, x) ** 3).sum()


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        yield [jnp.asarray(rng.normal(size=shape)) for shape in ((4, 3, 5), (4, 5))]


def test_the_transpose_is_the_given_one(drawn):
    matrices, xs = drawn
    call = lambda x: linear_call(multiply, thrice, matrices[0], x)  # noqa: E731
    _, pull = jax.vjp(call, xs[0])
    np.testing.assert_allclose(pull(jnp.ones(3))[0], thrice(matrices[0], jnp.ones(3)))
    # Twice transposed it is the function again.
    (again,) = jax.linear_transpose(lambda y: pull(y)[0], jnp.ones(3))(xs[1])
    np.testing.assert_allclose(again, multiply(matrices[0], xs[1]))


@pytest.mark.parametrize("argument", [0, 1])
def test_all_modes_are_those_of_jax(drawn, argument):
    arguments = [each[0] for each in drawn]

    @functools.partial(jax.jit, static_argnums=0)
    def found(function, *arguments):
        f = square(function)
        modes = (jax.jacfwd, jax.jacrev)
        first = [mode(f, argument)(*arguments) for mode in modes]
        second = [a(b(f, 1 - argument), argument)(*arguments) for a in modes for b in modes]
        third = jax.jacrev(jax.jacfwd(jax.grad(f, argument), argument), argument)
        return [*first, *second, third(*arguments)]

    for a, b in zip(found(ours, *arguments), found(multiply, *arguments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0), (None, 1), (2, 0)])
def test_vmap_is_a_loop(drawn, axes):
    arguments = [
        each[0] if axis is None else jnp.moveaxis(each, 0, axis)
        for each, axis in zip(drawn, axes, strict=True)
    ]
    gradient = lambda function: jax.vmap(jax.grad(square(function), (0, 1)), axes)  # noqa: E731
    total = lambda function: lambda *a: jax.vmap(square(function), axes)(*a).sum()  # noqa: E731
    for f in (gradient, lambda function: jax.grad(total(function), (0, 1))):
        for a, b in zip(f(ours)(*arguments), f(multiply)(*arguments), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
