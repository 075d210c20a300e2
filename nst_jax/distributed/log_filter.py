"""What a process prints, apart from what JAX's C++ code says about connections."""

import os
import re
import sys
import threading
from typing import Any


class Streams:
    """Keeps what JAX's C++ code says about connections out of the program's own output.

    It writes to the process's streams 1 and 2 themselves. Here these lead to a pipe, whose reader
    passes on everything else; Python's own streams lead where they led.

    Attributes:
      hidden: what was kept back.
    """

    _HEADER = re.compile(r"[IWEF]\d{4} \d\d:|\[Gloo\] Rank|WARNING: All log messages before")
    _HIDDEN = re.compile(
        r"\[Gloo\] Rank|WARNING: All log messages before|"
        r".*\b(?:coordination_service\w*\.cc|preemption_\w+\.cc|client\.h|add_port\.cc)"
    )

    def __init__(self) -> None:
        self.hidden = ""

    def __enter__(self) -> "Streams":
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self._python = sys.stdout, sys.stderr
        self._fds = os.dup(1), os.dup(2)
        sys.stdout, sys.stderr = map(_reopened, self._fds, self._python)
        reader, writer = os.pipe()
        for number in (1, 2):
            os.dup2(writer, number)
        os.close(writer)
        self._thread = threading.Thread(target=self._read, args=(reader,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, stream in enumerate((sys.stdout, sys.stderr), 1):
            stream.flush()
            os.dup2(self._fds[number - 1], number)  # the last writer is gone: the reader ends
        self._thread.join(1)
        sys.stdout, sys.stderr = self._python
        for fd in self._fds:
            os.close(fd)

    def write(self, text: str) -> None:
        """Write to standard error, whatever locks Python's stream has."""
        if os.isatty(self._fds[0]):
            os.write(self._fds[0], b"\x1b[?25h\n")  # show the cursor that a progress bar has hidden
        os.write(self._fds[1], text.encode())

    def _read(self, reader: int) -> None:
        hiding = False
        with open(reader, errors="replace") as lines:
            for line in lines:
                if self._HEADER.match(line):
                    hiding = bool(self._HIDDEN.match(line))
                if hiding:
                    self.hidden = (self.hidden + line)[-(2**16) :]
                else:
                    os.write(self._fds[1], line.encode())


def _reopened(fd: int, like: Any) -> Any:
    return open(
        fd,
        "w",
        encoding=like.encoding,
        errors=like.errors,
        buffering=1,
        closefd=False,
    )
