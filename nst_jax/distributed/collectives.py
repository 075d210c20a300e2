"""What the processes of one job tell each other; a single process agrees with itself."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def is_first() -> bool:
    """Say whether this process is the one that writes and prints. The call starts JAX's devices."""
    return jax.process_index() == 0


def agree(flag: bool) -> bool:
    """Say whether any process has the flag.

    All must call it at the same place of their work, as after the same step.
    """
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def broadcast_from_first(number: int) -> int:
    """Return process 0's number, where each process's own clock would give another one."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.asarray(number, np.int32)))


def allgather_json(
    name: str, value: Any, *, meanwhile: Callable[[], object] = lambda: None
) -> list[Any]:
    """Return the values of all processes, in their order; wait, however long, for the last one.

    No device takes part, so that processes may come at very different times.

    Args:
      name: of the question, asked once in the life of the processes; all ask the same.
      value: this process's answer; anything that JSON has.
      meanwhile: called about every second while others have not answered.

    Raises:
      JaxRuntimeError: if another process is lost meanwhile.
    """
    count = jax.process_count()
    if count == 1:
        return [json.loads(json.dumps(value))]
    client: Any = _client()
    answers: list[Any] = []
    client.key_value_set(f"nst-jax/{name}/{jax.process_index()}", json.dumps(value))
    while len(answers) < count:
        try:  # in short turns, as Python's signals wait for the end of each
            key = f"nst-jax/{name}/{len(answers)}"
            answers.append(json.loads(client.blocking_key_value_get(key, 1000)))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            meanwhile()
    return answers


def post(name: str, number: int) -> None:
    """Tell the other processes a number, which `poll` returns there."""
    if jax.process_count() > 1:
        _client().key_value_set(f"nst-jax/{name}", str(number), allow_overwrite=True)


def poll(name: str) -> int:
    """Return the number that a process has posted last, 0 if none has."""
    if jax.process_count() > 1:
        try:
            return int(_client().key_value_try_get(f"nst-jax/{name}"))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
    return 0


def barrier(name: str, patience: float) -> None:
    """Wait until all have come here.

    Args:
      name: of the place, where each process comes once.
      patience: seconds to wait for the last one.

    Raises:
      JaxRuntimeError: if another process is lost meanwhile, or does not come.
    """
    _client().wait_at_barrier(f"nst-jax: {name}", int(patience * 1000))


def connection() -> Any:
    """Return JAX's own record of the connected processes: their client, how many, which this is."""
    from jax._src import distributed  # as Orbax does; there is no public way

    return distributed.global_state


def _client() -> Any:
    return connection().client
