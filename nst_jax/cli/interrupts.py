"""Stop a run after its current step on a signal, so that the picture so far is saved."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from nst_jax.cli.output import warn


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that collects the first Ctrl-C, SIGTERM or SIGHUP, which then kills nothing.

    A second Ctrl-C or SIGTERM kills as usual. A closed terminal sends SIGHUP; under nohup SIGHUP
    stays ignored. Outside the main thread, which alone takes signals, the list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)  # not on every system
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        numbers.append(hangup)

    def receive(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        restore()
        if signum == hangup:  # of a closed terminal: the kernel and the shell each send one
            signal.signal(hangup, signal.SIG_IGN)
        warn("stopping after this step; a second signal stops at once")

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
