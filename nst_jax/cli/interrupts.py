"""Signals that stop a run after its step, so that the picture so far is saved."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from nst_jax.cli.output import warn


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect the first Ctrl-C, SIGTERM or SIGHUP instead of dying of it.

    A second Ctrl-C or SIGTERM kills as usual. SIGHUP comes where a terminal is closed; under nohup,
    which ignores it, it stays ignored.
    """
    received: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # not on every system
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)

    def receive(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        restore()
        if signum == hangup:  # a closed terminal sends it twice: the kernel does, and the shell
            signal.signal(hangup, signal.SIG_IGN)
        warn("stopping after this step; once more to stop at once")

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        restore()
