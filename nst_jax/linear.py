"""Linear functions with a transpose of their own, for every mode of differentiation.

JAX's reverse mode runs the transpose of the tangent. Where JAX's own transpose of a function is
slow, `jax.custom_vjp` gives another one but has no forward mode; `linear_call` here has both.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree, Shaped

Linear = Callable[[Any, Array], Array]


def linear_call(
    function: Linear,
    transpose: Linear,
    residuals: PyTree[Array],
    x: Shaped[Array, "..."],
    *,
    like: Shaped[Array, "..."] | None = None,
) -> Shaped[Array, "..."]:
    """Return `function(residuals, x)`, whose transpose in `x` is `transpose(residuals, y)`.

    Both are transposes of each other, and are differentiated in the residuals by JAX's own rules,
    so any number of derivatives in any mode works, as do `jax.vmap` and sharded arrays.
    (`jax.custom_derivatives.linear_call` works neither under `jax.vmap` nor where the residuals
    have tangents.)

    Args:
      function: linear in its second argument; equal functions must compare equal, so that what is
        compiled is found again.
      transpose: from the result of `function` to the `x` of it.
      residuals: the first argument of both.
      x: the second argument of `function`.
      like: an array of the result's type, which is else found by tracing `function`.
    """
    leaves, tree = jax.tree.flatten(residuals)
    x = vary_like(x, (leaves, like))
    settings = {"function": function, "transpose": transpose, "tree": tree}
    result: Array = _linear.bind(
        *leaves, x, **settings, type=None if like is None else jax.typeof(like)
    )
    return result


def vary_like(x: Shaped[Array, "..."], others: PyTree[Array]) -> Shaped[Array, "..."]:
    """Let `x` vary over the axes of `jax.shard_map` that any of the others varies over.

    The transpose is then a sum over these axes.
    """
    varying = [jax.typeof(y).manual_axis_type.varying for y in jax.tree.leaves((x, others))]
    missing = frozenset().union(*varying) - varying[0]
    return jax.lax.pcast(x, tuple(missing), to="varying") if missing else x


def _call(*arguments: Array, function: Linear, tree: Any, **_: Any) -> Array:
    *leaves, x = arguments
    return function(jax.tree.unflatten(tree, leaves), x)


def _abstract_call(*arguments: Any, **settings: Any) -> Any:
    if settings["type"] is not None:
        return settings["type"]
    (result,) = jax.make_jaxpr(functools.partial(_call, **settings))(*arguments).out_avals
    return result


def _is_zero(tangent: Any) -> bool:
    return type(tangent) is ad.Zero or tangent.dtype == jax.dtypes.float0


def _differentiate(
    primals: tuple[Array, ...], tangents: tuple[Any, ...], **settings: Any
) -> tuple[Array, Any]:
    *leaves, _ = primals
    terms = [] if _is_zero(tangents[-1]) else [_linear.bind(*leaves, tangents[-1], **settings)]
    moving = [i for i, tangent in enumerate(tangents[:-1]) if not _is_zero(tangent)]

    def of_residuals(*values: Array) -> Array:
        changed = dict(zip(moving, values, strict=True))
        return _call(*(changed.get(i, each) for i, each in enumerate(primals)), **settings)

    if moving:
        values, slopes = ([each[i] for i in moving] for each in (primals, tangents))
        terms.append(jax.jvp(of_residuals, values, slopes)[1])
    return _linear.bind(*primals, **settings), functools.reduce(ad.add_tangents, terms)


def _transpose(
    cotangent: Any, *arguments: Any, function: Linear, transpose: Linear, tree: Any, **_: Any
) -> list[Any]:
    *leaves, x = arguments
    exchanged = {"function": transpose, "transpose": function, "tree": tree, "type": x.aval}
    none = [None] * len(leaves)
    zero = type(cotangent) is ad.Zero
    return [*none, None if zero else _linear.bind(*leaves, cotangent, **exchanged)]


class _Mapped(NamedTuple):
    """A function over a new first axis of `x`, and of some of the residuals."""

    function: Linear
    axes: tuple[int | None, ...]

    def __call__(self, residuals: Any, x: Array) -> Array:
        leaves, tree = jax.tree.flatten(residuals)

        def one(leaves: list[Array], x: Array) -> Array:
            return self.function(jax.tree.unflatten(tree, leaves), x)

        result: Array = jax.vmap(one, in_axes=(list(self.axes), 0))(leaves, x)
        return result


def _map(
    arguments: tuple[Array, ...],
    axes: tuple[int | None, ...],
    *,
    function: Linear,
    transpose: Linear,
    tree: Any,
    **_: Any,
) -> tuple[Array, int]:
    *leaves, x = (
        each if axis is None else jnp.moveaxis(each, axis, 0)
        for each, axis in zip(arguments, axes, strict=True)
    )
    if axes[-1] is None:  # the transpose sums over the axis
        size = next(
            each.shape[0] for each, axis in zip(leaves, axes, strict=False) if axis is not None
        )
        x = jnp.broadcast_to(x, (size, *x.shape))
    mapped = tuple(None if axis is None else 0 for axis in axes[:-1])
    both = {"function": _Mapped(function, mapped), "transpose": _Mapped(transpose, mapped)}
    return _linear.bind(*leaves, x, **both, tree=tree, type=None), 0


def _define() -> Primitive:
    primitive = Primitive("nst_jax_linear_call")
    primitive.def_impl(_call)
    primitive.def_abstract_eval(_abstract_call)
    ad.primitive_jvps[primitive] = _differentiate
    ad.primitive_transposes[primitive] = _transpose
    batching.primitive_batchers[primitive] = _map
    mlir.register_lowering(primitive, mlir.lower_fun(_call, multiple_results=False))
    return primitive


_linear = _define()
