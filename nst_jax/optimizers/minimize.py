"""Minimize a function of one pytree with any optax optimizer; the state is a pytree too.

Nothing here knows style transfer. `init`, `step` and `run` are pure: jit, vmap, grad or shard them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from nst_jax.optimizers.averaging import IterateRule, last
from nst_jax.optimizers.loops import chunked_fori_loop

LossFn = Callable[[PyTree[Array]], tuple[Float[Array, ""], Any]]


class State(NamedTuple):
    """Where an optimization stands.

    Attributes:
      variable: what is optimized.
      optimizer: the optimizer's own state.
      step: how many updates have been made.
      kept: the memory of the rule by which the iterates become a picture.
    """

    variable: PyTree[Array]
    optimizer: optax.OptState
    step: Int[Array, ""]
    kept: Any


def init(
    variable: PyTree[Array],
    *,
    optimizer: optax.GradientTransformation,
    keep: IterateRule | None = None,
) -> State:
    """Start at a variable with no update made.

    Args:
      variable: where to start, any pytree of floats.
      optimizer: any optax transformation.
      keep: from `optimizers.averaging`; by default nothing is remembered but the last iterate.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from nst_jax import init
      >>> state = init(jnp.zeros(2), optimizer=optax.sgd(0.25))
      >>> int(state.step)
      0
    """
    keep = keep or last()
    # Some optimizers start with weakly typed numbers, which an update makes strong: a program that
    # is compiled for the one would be compiled once more for the other.
    begun, kept = jax.tree.map(
        lambda x: jax.lax.convert_element_type(x, x.dtype),
        (optimizer.init(variable), keep.init(variable)),
    )
    return State(variable, begun, jnp.zeros((), jnp.int32), kept)


def unchanged(variable: PyTree[Array]) -> PyTree[Array]:
    """Return the variable; the projection where there is nothing to project."""
    return variable


def step(
    state: State,
    *,
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    project: Callable[[PyTree[Array]], PyTree[Array]] = unchanged,
    keep: IterateRule | None = None,
) -> tuple[State, Any]:
    """Make one update.

    Args:
      state: from `init` or an earlier `step`.
      loss: takes the variable to (scalar, auxiliary values).
      optimizer: any optax transformation; those that search a line are given the value, the
        gradient and the function.
      project: applied to the variable after each update, as to keep it within bounds.
      keep: from `nst_jax.optimizers.averaging`, the one that `init` was given.

    Returns:
      The new state, and the auxiliary values at the variable *before* the update.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from nst_jax import init, step
      >>> def loss(x):
      ...     value = jnp.sum((x - 1.0) ** 2)
      ...     return value, value  # what is minimized, and what is recorded
      >>> optimizer = optax.sgd(0.25)
      >>> state = init(jnp.zeros(2), optimizer=optimizer)
      >>> state, value = step(state, loss=loss, optimizer=optimizer)
      >>> float(value), state.variable.tolist()
      (2.0, [0.5, 0.5])
    """
    (value, auxiliary), gradient = jax.value_and_grad(loss, has_aux=True)(state.variable)
    state = update(
        state,
        value,
        gradient,
        optimizer=optimizer,
        project=project,
        keep=keep,
        value_fn=lambda variable: loss(variable)[0],
    )
    return state, auxiliary


def update(
    state: State,
    value: Float[Array, ""],
    gradient: PyTree[Array],
    *,
    optimizer: optax.GradientTransformation,
    project: Callable[[PyTree[Array]], PyTree[Array]] = unchanged,
    keep: IterateRule | None = None,
    value_fn: Callable[[PyTree[Array]], Float[Array, ""]] | None = None,
) -> State:
    """Make one update with a value and a gradient that are known.

    Args:
      state: see `step`.
      value: of the loss at the variable.
      gradient: of the loss there.
      optimizer: see `step`.
      project: see `step`.
      keep: see `step`.
      value_fn: the loss, for optimizers that search a line.
    """
    updates, optimizer_state = optax.with_extra_args_support(optimizer).update(
        gradient,
        state.optimizer,
        state.variable,
        value=value,
        grad=gradient,
        value_fn=value_fn,
    )
    variable = project(optax.apply_updates(state.variable, updates))
    kept = (keep or last()).update(state.kept, state.variable, value, variable)
    return State(variable, optimizer_state, state.step + 1, kept)


def run(
    state: State,
    steps: int | Int[Array, ""],
    *,
    loss: LossFn,
    optimizer: optax.GradientTransformation,
    capacity: int | None = None,
    project: Callable[[PyTree[Array]], PyTree[Array]] = unchanged,
    keep: IterateRule | None = None,
    block: int = 1,
) -> tuple[State, Any]:
    """Make `steps` updates in one call to the device.

    The number of updates is a run-time value, so one compiled program serves chunks of any length.

    Args:
      state: where to start.
      steps: how many updates, at most `capacity`; a number or, in compiled code, an array.
      loss: see `step`.
      optimizer: see `step`.
      capacity: length of the records; `steps` if that is a number and this is not given.
      project: see `step`.
      keep: see `step`.
      block: how many updates are made between two tests of whether the loop ends; the result is
        the same. On a GPU the host makes each test (see `backend.block`).

    Returns:
      The new state, and the auxiliary values of each update stacked along a new first axis of
      length `capacity`; rows from `steps` on are zero.

    Raises:
      TypeError: if `steps` is an array and there is no capacity.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from nst_jax import init, run
      >>> def loss(x):
      ...     value = jnp.sum((x - 1.0) ** 2)
      ...     return value, value
      >>> optimizer = optax.sgd(0.25)
      >>> state = init(jnp.zeros(2), optimizer=optimizer)
      >>> state, records = run(state, 3, loss=loss, optimizer=optimizer, capacity=4)
      >>> records.tolist(), int(state.step)
      ([2.0, 0.5, 0.125, 0.0], 3)
    """

    def body(i: Array, carry: tuple[State, Any]) -> tuple[State, Any]:
        state, records = carry
        state, auxiliary = step(state, loss=loss, optimizer=optimizer, project=project, keep=keep)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), records, _row(auxiliary))

    if capacity is None:
        if not isinstance(steps, int):
            raise TypeError("steps is an array; give the capacity too")
        capacity = steps
    recorded = jax.eval_shape(loss, state.variable)[1]
    # Zeros, as numbers that are none would set off jax_debug_nans.
    blank = jax.tree.map(
        lambda row: jnp.zeros((capacity, *row.shape), row.dtype), jax.eval_shape(_row, recorded)
    )
    carry: tuple[State, Any] = state, blank
    if block > 1:
        body = jax.jit(body)  # traced once for both loops
    whole = steps // block
    carry = chunked_fori_loop(whole, block, body, carry)
    if block > 1:
        carry = jax.lax.fori_loop(whole * block, steps, body, carry)
    state, records = carry
    return state, _columns(records, recorded)


def _row(auxiliary: PyTree[Array]) -> dict[str, Array]:
    """Join all values of one type: one array is written at once, many are a kernel each."""
    values: dict[str, list[Array]] = {}
    for x in map(jnp.asarray, jax.tree.leaves(auxiliary)):
        values.setdefault(str(x.dtype), []).append(x.reshape(-1))
    return {kind: jnp.concatenate(parts) for kind, parts in values.items()}


def _columns(records: dict[str, Array], recorded: PyTree[jax.ShapeDtypeStruct]) -> PyTree[Array]:
    """Take rows apart into what they were joined from."""
    used = dict.fromkeys(records, 0)

    def column(x: jax.ShapeDtypeStruct) -> Array:
        kind = str(x.dtype)
        begin = used[kind]
        used[kind] += math.prod(x.shape)
        rows = records[kind]
        return rows[:, begin : used[kind]].reshape(rows.shape[0], *x.shape)

    return jax.tree.map(column, recorded)
