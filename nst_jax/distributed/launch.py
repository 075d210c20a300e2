"""Several processes that share a job begin and end together.

JAX connects them (`jax.distributed`). When one dies, JAX aborts the others from a thread in C++, at
once or when heartbeats fail to come; `together` makes one line and an exit code of that.
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

from nst_jax.distributed.collectives import barrier, connection
from nst_jax.distributed.log_filter import Streams
from nst_jax.errors import InputError

_FAILURE, _USAGE = 1, 2
# What an error says when another process is gone, by whatever it is that notices.
_LOST = re.compile(
    r"Gloo|NCCL|coordination.service|CoordinationService|[Hh]eartbeat|[Ss]ocket closed|"
    r"Connection (?:closed|reset|refused)|[Bb]arrier|UNAVAILABLE|DEADLINE_EXCEEDED"
)


def join(
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    heartbeat: int = 30,
    patience: int = 300,
) -> None:
    """Connect with the other processes, before JAX does anything else.

    Args:
      coordinator: HOST:PORT where process 0 listens and all can reach it. Without it JAX asks the
        cluster: Slurm, Kubernetes, a TPU pod or Open MPI.
      processes: how many there are; with a coordinator.
      process: the number of this one, from 0; with a coordinator.
      heartbeat: seconds without a sign of life after which a process counts as lost.
      patience: seconds to wait for the others, at each of the two stages of connecting.

    Raises:
      InputError: if the three do not fit together, there is no cluster, JAX has started already, or
        the coordinator cannot be reached. If others do not come, JAX aborts the process; within
        `together` that is one line too.
    """
    explicit = _check(coordinator, processes, process)
    if os.environ.get("JAX_CPU_COLLECTIVES_IMPLEMENTATION") is None:
        _configure("jax_cpu_collectives_implementation", "gloo")
    # JAX would take SIGTERM for itself, and warn in every process of each proxy there is.
    _configure("jax_enable_preemption_service", False)
    _configure("jax_check_proxy_envs", False)
    if coordinator and process == 0:
        _check_port(coordinator)
    elif coordinator:
        _wait_for(coordinator, patience)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            # What is said explicitly is not asked of a cluster, which might not answer.
            cluster_detection_method="deactivate" if explicit else None,
            initialization_timeout=patience,
            heartbeat_timeout_seconds=heartbeat,
            shutdown_timeout_seconds=heartbeat,
        )
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise InputError(_explain_join(error)) from error


def _configure(name: str, value: Any) -> None:
    with contextlib.suppress(AttributeError):  # settings come and go with JAX's versions
        jax.config.update(name, value)


def _check(coordinator: str | None, processes: int | None, process: int | None) -> bool:
    """Say whether the processes are described explicitly; InputError if only half so."""
    given = [x is not None for x in (coordinator, processes, process)]
    if not any(given):
        return False
    if not all(given) or coordinator is None or processes is None or process is None:
        raise InputError(
            f"the coordinator is {coordinator}, the number of processes {processes}, this process "
            f"{process}; give all three, or none of them on a cluster that JAX knows"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"the coordinator is {coordinator!r}; give HOST:PORT, as 10.0.0.1:1234")
    if processes < 1 or not 0 <= process < processes:
        raise InputError(
            f"this is process {process} of {processes}; processes are counted from 0, so give 0 to "
            "the number of processes - 1"
        )
    return True


def _check_port(coordinator: str) -> None:
    """Check that process 0 can listen: JAX 0.10 crashes now and then where it cannot."""
    port = int(coordinator.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=both).close()
    except OSError as error:
        raise InputError(
            f"process 0 cannot listen at port {port} ({error.strerror}); choose another one for all"
        ) from None


def _wait_for(coordinator: str, patience: float | int) -> None:
    """Wait until process 0 listens: JAX would abort if it never does."""
    host, _, port = coordinator.rpartition(":")
    ends, reason = time.monotonic() + patience, "no answer"
    while (left := ends - time.monotonic()) > 0:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=left).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
        time.sleep(min(0.1, max(0.0, ends - time.monotonic())))
    raise InputError(
        f"the coordinator {coordinator} was not reached within {patience:g} s ({reason}); start "
        "process 0 there, and give the others an address at which they see it"
    )


def _explain_join(error: Exception) -> str:
    text = str(error)
    if "must be called before" in text or "only be called once" in text:
        return "JAX has started already; join the processes before anything else is computed"
    if "should be defined" in text or "must be defined" in text or isinstance(error, KeyError):
        return (
            "no cluster was found (Slurm, Kubernetes, a TPU pod or Open MPI); start the program "
            "there, or give the coordinator, the number of processes and this process's own"
        )
    return f"the processes cannot be connected: {' '.join(text.split())}"


def leave(*, patience: float = 600) -> None:
    """Wait for all others to come here too, and disconnect; nothing if not connected.

    Args:
      patience: seconds to wait, as while process 0 writes the picture.

    Raises:
      JaxRuntimeError: if another is lost meanwhile, or does not come.
    """
    if jax.distributed.is_initialized():
        barrier("all is done", patience)
        jax.distributed.shutdown()


def together(
    job: Callable[[], int],
    *,
    program: str,
    advice: str = "start all again",
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    heartbeat: int = 30,
    patience: int = 300,
) -> int:
    """Join the other processes, run the job and return its exit code.

    If another process is lost, this one prints one line and *ends* with code 1 within seconds, at
    the latest after the heartbeat time and half of it again. It ends likewise, with the job's code,
    if the job returns without `leave`: the others are then lost, and would never let it go.

    Args:
      job: returns the exit code; best calls `leave` where the work is done.
      program: begins each message.
      advice: ends the message that a process was lost.
      coordinator: see `join`, as all that follows.
      processes: see `join`.
      process: see `join`.
      heartbeat: see `join`.
      patience: see `join`.
    """
    with Streams() as output:
        end = _End(program, output)
        with _abort_handled(lambda: end.aborted(advice)):
            try:
                try:
                    with _interruptible():
                        join(
                            coordinator=coordinator,
                            processes=processes,
                            process=process,
                            heartbeat=heartbeat,
                            patience=patience,
                        )
                except InputError as error:
                    end.say(f"error: {error}")
                    end.now(_USAGE)
                end.joined = True
                code = job()
            except Exception as error:
                reason = _reason(error)
                if reason is None:
                    traceback.print_exc()
                else:
                    end.say(_lost(reason, output.hidden, advice))
                end.now(_FAILURE)
            if jax.distributed.is_initialized():
                # A mistake that all have made is told by all, before process 0 takes them along.
                end.code = code
                with contextlib.suppress(RuntimeError):
                    barrier("failed", 1)
                end.now(code)
            return code


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C kill the process: while JAX waits for the others, Python would not hear of it."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _reason(error: BaseException | None) -> str | None:
    """Return what an error says of the loss of a process, or None where it is about another."""
    while error is not None:
        text = str(error)
        # JAX raises a ValueError where a computation fails while it is being dispatched.
        known = isinstance(error, RuntimeError | ValueError)
        if known and "RESOURCE_EXHAUSTED" not in text:
            found = re.search(r"Connection (?:closed|reset) by peer|timed? ?out", text, re.I)
            if _LOST.search(text):
                return found[0] if found else text.partition("\n")[0][:120]
        error = error.__cause__ or error.__context__
    return None


def _lost(reason: str, log: str, advice: str) -> str:
    state = connection()
    unhealthy = re.search(r"stopped sending heartbeats\):\s*(\d[\d, ]*)", log)
    if unhealthy:
        who, reason = f"process {unhealthy[1].strip()}", "no heartbeat"
    elif state.num_processes == 2:
        who = f"process {1 - state.process_id}"
    elif "leader task" in log and state.process_id:
        who = "process 0"
    else:
        return f"one of the {state.num_processes} processes was lost ({reason}); {advice}"
    return f"{who} of {state.num_processes} was lost ({reason}); {advice}"


class _End:
    """How a process ends that cannot wait for the others: once, and with one line."""

    def __init__(self, program: str, output: "Streams"):
        self.joined = False
        self.code: int | None = None
        self._program, self._output = program, output
        self._once = threading.Lock()

    def say(self, message: str) -> None:
        if self._once.acquire(blocking=False):
            self._output.write(f"{self._program}: {message}\n")
        else:  # another thread has said it, and ends the process
            time.sleep(10)

    def now(self, code: int) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)

    def aborted(self, advice: str) -> None:
        """Do what is left to do while a thread in C++ aborts; return if JAX is not the reason."""
        if self.code is not None:
            os._exit(self.code)
        time.sleep(0.1)  # until the log has been read
        log = self._output.hidden
        if not self.joined:
            self.say(
                "error: the processes did not all come in time, or two have the same number; start "
                "each with its own number, and all with the same coordinator and number of them"
            )
            os._exit(_USAGE)
        if "fatal errors" not in log:
            return
        self.say(_lost("no answer from the coordinator", log, advice))
        os._exit(_FAILURE)


@contextlib.contextmanager
def _abort_handled(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` when a thread aborts; the process dies as usual if that returns.

    Python's own handlers run in the main thread, after abort() has killed the process: this one is
    called by the thread that aborts.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda _: act())
    before = libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        libc.signal(signal.SIGABRT, before)
