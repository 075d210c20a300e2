"""A program of several processes that computes nothing: it waits until one is told to stop.

    python painter.py NAME=VALUE...

`Painters` starts it as many processes; it is to the package what a command line is.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from nst_jax.distributed import collectives, launch
from ports import free_port


def paint(flags):
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    collectives.agree(False)  # all can be stopped now
    if collectives.is_first():
        print("ready", flush=True)
    time.sleep(flags.idle)
    ends, code = time.monotonic() + 60, 0
    while not code and time.monotonic() < ends:
        time.sleep(0.05)
        code = 143 * collectives.agree(bool(stop))
    launch.leave()
    return code


def main(argv):
    flags = SimpleNamespace(port=0, count=1, number=0, heartbeat=4, patience=20, idle=0)
    for word in argv:
        name, _, value = word.partition("=")
        setattr(flags, name, int(value))
    return launch.together(
        lambda: paint(flags),
        program="painter",
        advice="start again with the same command",
        coordinator=f"127.0.0.1:{flags.port}",
        processes=flags.count,
        process=flags.number,
        heartbeat=flags.heartbeat,
        patience=flags.patience,
    )


class Painters:
    """Some processes that paint together; each wait ends. Leaving it kills what still runs."""

    def __init__(self, folder, *flags, count=2):
        port, root = free_port(), Path(__file__).parents[1]
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "PYTHONWARNINGS": "error",
        }
        self.outputs, self.processes = [], []
        for number in range(count):
            files = [folder / f"{port}-{number}.{name}" for name in ("out", "err")]
            with files[0].open("w") as out, files[1].open("w") as err:
                command = [sys.executable, __file__, f"port={port}", f"count={count}"]
                self.processes.append(
                    subprocess.Popen(
                        [*command, f"number={number}", *flags],
                        cwd=folder,
                        env=environment,
                        stdout=out,
                        stderr=err,
                    )
                )
            self.outputs.append(files)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait(10)

    def wait_for(self, text, seconds=90):
        """Wait until the first process has said something."""
        ends = time.monotonic() + seconds
        while text not in self.said(0)[0]:
            assert self.processes[0].poll() is None, self.said(0)
            assert time.monotonic() < ends, self.said(0)
            time.sleep(0.02)

    def said(self, number):
        return [path.read_text() for path in self.outputs[number]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
