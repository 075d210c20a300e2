"""A loop whose length is known only at run time, in rounds whose length the compiler knows."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jaxtyping import Array, Int

_Carry = TypeVar("_Carry")


def chunked_fori_loop(
    rounds: int | Int[Array, ""],
    block: int,
    body: Callable[[Array, _Carry], _Carry],
    carry: _Carry,
) -> _Carry:
    """Compute `fori_loop(0, rounds * block, body, carry)`; see `backend.block` for why.

    Args:
      rounds: how many, a number or, in compiled code, an array.
      block: length of a round; 1: a plain loop.
      body: takes the index and the carried values to the next ones.
      carry: the first values.
    """
    if block == 1:
        plain: _Carry = jax.lax.fori_loop(0, rounds, body, carry)
        return plain

    def one(k: Array, carry: _Carry) -> _Carry:
        after: _Carry = jax.lax.fori_loop(0, block, lambda i, x: body(k * block + i, x), carry)
        return after

    done: _Carry = jax.lax.fori_loop(0, rounds, one, carry)
    return done
