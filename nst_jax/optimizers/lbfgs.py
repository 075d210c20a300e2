"""L-BFGS by the rules of `torch.optim.LBFGS` without line search, as an optax transformation.

The classic style transfer programs run it. `optax.lbfgs` is another algorithm: it searches a line,
keeps every pair, and scales its first step by the gradient's L2 norm.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree
from optax import tree  # its vdot multiplies at full precision: TF32 would spoil the curvature

from nst_jax.optimizers.loops import chunked_fori_loop

# A pair of a step s and the gradient's change y is kept if s·y is above this, as in torch.
_LEAST_CURVATURE = 1e-10


class Pairs(NamedTuple):
    """The pairs of a step s and the gradient's change y that L-BFGS remembers, at most m.

    Attributes:
      steps: s of the pairs, along a new first axis; pair number k is in row k % m.
      changes: y of the pairs.
      rho: 1 / (s·y) of the pairs.
      number: how many have been kept so far, those that others replaced included.
      scale: of the first estimate of the inverse Hessian, s·y / y·y of the newest pair.
    """

    steps: PyTree[Array]
    changes: PyTree[Array]
    rho: Float[Array, " m"]
    number: Int[Array, ""]
    scale: Float[Array, ""]


class TorchLBFGSState(NamedTuple):
    """What `torch_lbfgs` remembers; 2 m + 2 copies of the variable for m = `memory_size`.

    Attributes:
      iteration: updates made, torch's n_iter.
      gradient: the last one.
      step: the last one, before the tolerances.
      pairs: the remembered pairs.
      value: the last loss.
      stopped: whether `torch.optim.LBFGS.step` would have returned early at this update.
    """

    iteration: Int[Array, ""]
    gradient: PyTree[Array]
    step: PyTree[Array]
    pairs: Pairs
    value: Float[Array, ""]
    stopped: Bool[Array, ""]


def torch_lbfgs(
    learning_rate: float | Float[Array, ""] = 1.0,
    *,
    memory_size: int = 100,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    block: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """Return L-BFGS that takes the steps of `torch.optim.LBFGS(line_search_fn=None)`.

    Liu and Nocedal, 1989, with torch's rules: the first step is the gradient times
    min(1, 1/‖g‖₁) `learning_rate`, the later ones are the quasi-Newton direction times
    `learning_rate`; a pair with s·y ≤ 1e-10 is left out. One update is one evaluation of the loss,
    which is how the field counts; torch's `max_iter` only says how many of them one call of its
    `step` makes. Without a line search the loss may grow.

    An update is zero where torch would make none: no entry of the gradient is larger than
    `tolerance_grad`, or the direction does not descend by more than `tolerance_change`. Torch's
    `step` also returns after an update that is small, or that hardly changed the loss;
    the programs that call it in a loop then go on, and so does this. `TorchLBFGSState.stopped`
    tells of either. (A small change of the loss is seen one update late, when the loss is known.)

    Args:
      learning_rate: torch's `lr`.
      memory_size: torch's `history_size`, pairs to remember; at least 1.
      tolerance_grad: see above.
      tolerance_change: see above.
      block: how many pairs are used between two tests of whether the loop ends; the result is the
        same. On a GPU the host makes each test (see `backend.block`).

    Returns:
      An optax transformation whose `update` takes any pytree, and the loss as `value`, which only
      `stopped` depends on.
    """

    def init(params: PyTree[Array]) -> TorchLBFGSState:
        kind = jnp.result_type(*jax.tree.leaves(params))
        blank = jax.tree.map(jnp.zeros_like, params)
        rows = jax.tree.map(lambda x: jnp.zeros((memory_size, *x.shape), x.dtype), params)
        zero, one = jnp.zeros((), jnp.int32), jnp.ones((), kind)
        return TorchLBFGSState(
            iteration=zero,
            gradient=blank,
            step=blank,
            pairs=Pairs(rows, rows, jnp.zeros((memory_size,), kind), zero, one),
            value=jnp.full((), jnp.inf, kind),
            stopped=jnp.zeros((), bool),
        )

    def update(
        gradient: PyTree[Array],
        state: TorchLBFGSState,
        params: PyTree[Array] | None = None,
        *,
        value: Float[Array, ""] | None = None,
        **extra: Any,
    ) -> tuple[PyTree[Array], TorchLBFGSState]:
        flat = tree.norm(gradient, ord="inf") <= tolerance_grad
        pairs = _remember(state, gradient, unless=flat)
        direction = _direction(gradient, pairs, block=block)
        first = 1 / jnp.maximum(1, tree.norm(gradient, ord=1))
        rate = jnp.asarray(learning_rate, first.dtype)
        length = rate * jnp.where(state.iteration == 0, first, 1)
        step = tree.scale(length, direction)
        still = flat | (tree.vdot(gradient, direction) > -tolerance_change)
        updates = tree.where(still, tree.zeros_like(step), step)

        loss, unchanged = state.value, jnp.zeros((), bool)
        if value is not None:  # the predecessor of the first is infinite
            loss = jnp.asarray(value, state.value.dtype)
            unchanged = jnp.abs(loss - state.value) < tolerance_change
        return updates, TorchLBFGSState(
            # Where the gradient is flat, torch returns before it looks at anything.
            iteration=jnp.where(flat, state.iteration, state.iteration + 1),
            gradient=tree.where(flat, state.gradient, gradient),
            step=tree.where(flat, state.step, step),
            pairs=pairs,
            value=loss,
            stopped=still | unchanged | (tree.norm(step, ord="inf") <= tolerance_change),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _remember(state: TorchLBFGSState, gradient: PyTree[Array], *, unless: Array) -> Pairs:
    """Add the last step and the gradient's change, in place of the oldest pair if all are there."""
    old, change = state.pairs, tree.sub(gradient, state.gradient)
    curvature = tree.vdot(change, state.step)
    keep = ~unless & (state.iteration > 0) & (curvature > _LEAST_CURVATURE)
    row = old.number % old.rho.shape[0]
    # No pair that is left out is divided by: its y may be zero.
    curvature, square = (jnp.where(keep, x, 1) for x in (curvature, tree.vdot(change, change)))

    def put(rows: Array, new: Array) -> Array:
        return rows.at[row].set(jnp.where(keep, new, rows[row]))

    return Pairs(
        jax.tree.map(put, old.steps, state.step),
        jax.tree.map(put, old.changes, change),
        put(old.rho, 1 / curvature),
        jnp.where(keep, old.number + 1, old.number),
        jnp.where(keep, curvature / square, old.scale),
    )


def _direction(gradient: PyTree[Array], pairs: Pairs, *, block: int) -> PyTree[Array]:
    """Apply the negative inverse Hessian: the two loops of Nocedal and Wright, algorithm 7.4."""
    steps, changes, rho, number, scale = pairs
    memory_size = rho.shape[0]
    kept = jnp.minimum(number, memory_size)

    def backward(i: Array, carry: tuple[PyTree[Array], Array]) -> tuple[PyTree[Array], Array]:
        q, alphas = carry
        # The newest first; behind the oldest nothing is set.
        row = jnp.where(i < kept, (number - 1 - i) % memory_size, memory_size)
        alpha = jnp.where(i < kept, rho[row] * tree.vdot(_row(steps, row), q), 0)
        return tree.add_scale(q, -alpha, _row(changes, row)), alphas.at[row].set(alpha)

    def forward(i: Array, r: PyTree[Array]) -> PyTree[Array]:
        row = (number - kept + i) % memory_size  # the oldest first
        beta = rho[row] * tree.vdot(_row(changes, row), r)
        return tree.add_scale(r, jnp.where(i < kept, alphas[row] - beta, 0), _row(steps, row))

    # The length is a run-time value: an empty memory costs nothing, and nothing recompiles.
    rounds = -(-kept // block)
    start = (jax.tree.map(jnp.negative, gradient), jnp.zeros_like(rho))
    q, alphas = chunked_fori_loop(rounds, block, backward, start)
    direction: PyTree[Array] = chunked_fori_loop(rounds, block, forward, tree.scale(scale, q))
    return direction


def _row(rows: PyTree[Array], index: Array) -> PyTree[Array]:
    return jax.tree.map(lambda x: x[index], rows)
