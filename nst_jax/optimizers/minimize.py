"""Minimize a function of one pytree with any optax optimizer; the state is a pytree too.

Nothing here knows style transfer. All functions are pure: jit, vmap, grad or shard them.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from nst_jax.optimizers.averaging import IterateRule, last
from nst_jax.optimizers.loops import chunked_fori_loop


class State(NamedTuple):
    """Where a minimization stands.

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


class Record(NamedTuple):
    """What is known of the variable before each update.

    Attributes:
      loss: the value that is minimized.
      aux: the loss's other results; None if it has none.
    """

    loss: Float[Array, "*steps"]
    aux: Any


def unchanged(variable: PyTree[Array]) -> PyTree[Array]:
    """Return the variable; the projection where there is nothing to project."""
    return variable


@dataclass(frozen=True)
class Minimizer:
    """A minimization problem: the loss, the optimizer, and what is done with the iterates.

    Make a minimizer once, then call its methods: `run` compiles for each shape once, and again for
    a minimizer with another function. What changes from call to call belongs into the arguments of
    the loss.

    The variable is any pytree of floats. A model with other leaves is split first, as by
    `equinox.partition(model, equinox.is_inexact_array)` or `nnx.split`; the loss closes over the
    part that is no array.

    Attributes:
      loss: takes the variable and further arguments, pytrees of arrays, to a scalar; with `has_aux`
        to a scalar and a pytree of arrays to record.
      optimizer: any optax transformation, with any schedule. Those that search a line are given the
        value, the gradient and the function.
      has_aux: whether the loss returns a pair.
      project: applied to the variable after each update, as to keep it within bounds. What it
        closes over is a part of the compiled program.
      iterates: the rule by which the iterates become the result, from `optimizers.averaging`; by
        default it is the last one.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from nst_jax import Minimizer
      >>> minimizer = Minimizer(lambda x, goal: jnp.sum((x - goal) ** 2), optax.sgd(0.25))
      >>> state = minimizer.init(jnp.zeros(2))
      >>> state, record = minimizer.run(state, 3, jnp.ones(2))  # the last argument is the goal
      >>> record.loss.tolist(), minimizer.read(state).tolist()
      ([2.0, 0.5, 0.125], [0.875, 0.875])
    """

    loss: Callable[..., Any]
    optimizer: optax.GradientTransformation
    _: KW_ONLY
    has_aux: bool = False
    project: Callable[[PyTree[Array]], PyTree[Array]] = unchanged
    iterates: IterateRule = last()

    def init(self, variable: PyTree[Array]) -> State:
        """Start at a variable with no update made.

        The state holds copies: it can be donated, and the variable stays.

        Args:
          variable: where to start.
        """
        own = jax.tree.map(jnp.copy, variable)
        # Some optimizers start with weakly typed numbers, which an update makes strong: a program
        # that is compiled for the one would be compiled once more for the other.
        begun, kept = jax.tree.map(
            lambda x: jax.lax.convert_element_type(x, x.dtype),
            (self.optimizer.init(own), self.iterates.init(own)),
        )
        return State(own, begun, jnp.zeros((), jnp.int32), kept)

    def step(self, state: State, *args: Any) -> tuple[State, Record]:
        """Make one update.

        Args:
          state: from `init` or an earlier update.
          args: the further arguments of the loss.

        Returns:
          The new state, and the record of the variable *before* the update.
        """
        stepped: tuple[State, Record] = _step(self, state, args)
        return stepped

    def run(
        self,
        state: State,
        steps: int | Int[Array, ""],
        *args: Any,
        capacity: int | None = None,
        block: int = 1,
    ) -> tuple[State, Record]:
        """Make `steps` updates in one call to the device.

        The number of updates is a run-time value: one compiled program makes any number of them up
        to the capacity. JAX cannot go back through such a loop: for a gradient through the updates,
        `jax.lax.scan` over `step`.

        Args:
          state: from `init` or an earlier update.
          steps: how many updates; a number or, in compiled code, an array.
          args: the further arguments of the loss.
          capacity: the most updates of the compiled program, the length of its records; by default
            the next power of two.
          block: how many updates are made between two tests of whether the loop ends; the result is
            the same. On a GPU the host makes each test (see `backend.block`).

        Returns:
          The new state, and the record of each update, stacked along a new first axis. It has
          `steps` rows, or `capacity` rows if `steps` is an array; those from `steps` on are zero.

        Raises:
          TypeError: if `steps` is an array and there is no capacity.
        """
        if capacity is None:
            if isinstance(steps, jax.Array):
                raise TypeError("steps is an array; give the capacity too")
            capacity = 1 << max(steps - 1, 0).bit_length()
        state, record = _run(self, state, steps, args, capacity=capacity, block=block)
        if isinstance(steps, jax.Array) or steps == capacity:
            return state, record
        return state, jax.tree.map(lambda rows: rows[:steps], record)

    def read(self, state: State) -> PyTree[Array]:
        """Return the result of the iterates so far.

        Args:
          state: from `init` or an update.
        """
        return self.iterates.read(state.kept, state.variable)

    def update(
        self,
        state: State,
        value: Float[Array, ""],
        gradient: PyTree[Array],
        *,
        value_fn: Callable[[PyTree[Array]], Float[Array, ""]] | None = None,
    ) -> State:
        """Make one update with a value and a gradient that are known.

        Args:
          state: see `step`.
          value: of the loss at the variable.
          gradient: of the loss there.
          value_fn: takes a variable to the loss, for optimizers that search a line.
        """
        # optax promotes types, also for callers who forbid that.
        with jax.numpy_dtype_promotion("standard"):
            updates, optimizer = optax.with_extra_args_support(self.optimizer).update(
                gradient,
                state.optimizer,
                state.variable,
                value=value,
                grad=gradient,
                value_fn=value_fn,
            )
            updated = optax.apply_updates(state.variable, updates)
        variable = self.project(updated)
        kept = self.iterates.update(state.kept, state.variable, value, variable)
        return State(variable, optimizer, state.step + 1, kept)

    def evaluate(self, variable: PyTree[Array], *args: Any) -> Record:
        """Compute the loss, and its other results if there are any.

        Args:
          variable: where.
          args: the further arguments of the loss.
        """
        result = self.loss(variable, *args)
        return Record(*result) if self.has_aux else Record(result, None)


def step_once(minimizer: Minimizer, state: State, args: tuple[Any, ...]) -> tuple[State, Record]:
    """Compute `Minimizer.step` as a part of a larger program."""

    def loss(variable: PyTree[Array]) -> tuple[Array, Record]:
        record = minimizer.evaluate(variable, *args)
        return record.loss, record

    (value, record), gradient = jax.value_and_grad(loss, has_aux=True)(state.variable)
    value_fn = lambda variable: loss(variable)[0]  # noqa: E731
    return minimizer.update(state, value, gradient, value_fn=value_fn), record


def run_steps(
    minimizer: Minimizer,
    state: State,
    steps: int | Int[Array, ""],
    args: tuple[Any, ...],
    *,
    capacity: int,
    block: int,
) -> tuple[State, Record]:
    """Compute `Minimizer.run` as a part of a larger program; the record has `capacity` rows."""

    def body(i: Array, carry: tuple[State, Any]) -> tuple[State, Any]:
        state, rows = carry
        state, record = step_once(minimizer, state, args)
        return state, jax.tree.map(lambda rows, row: rows.at[i].set(row), rows, _row(record))

    recorded = jax.eval_shape(minimizer.evaluate, state.variable, *args)
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
    state, rows = carry
    return state, _columns(rows, recorded)


_step = jax.jit(step_once, static_argnums=0)
_run = jax.jit(run_steps, static_argnums=0, static_argnames=("capacity", "block"))


def _row(record: PyTree[Array]) -> dict[str, Array]:
    """Join all values of one type: one array is written at once, many are a kernel each."""
    values: dict[str, list[Array]] = {}
    for x in map(jnp.asarray, jax.tree.leaves(record)):
        values.setdefault(str(x.dtype), []).append(x.reshape(-1))
    return {kind: jnp.concatenate(parts) for kind, parts in values.items()}


def _columns(rows: dict[str, Array], recorded: PyTree[jax.ShapeDtypeStruct]) -> PyTree[Array]:
    """Take rows apart into what they were joined from."""
    used = dict.fromkeys(rows, 0)

    def column(x: jax.ShapeDtypeStruct) -> Array:
        kind = str(x.dtype)
        begin = used[kind]
        used[kind] += math.prod(x.shape)
        same = rows[kind]
        return same[:, begin : used[kind]].reshape(same.shape[0], *x.shape)

    return jax.tree.map(column, recorded)
