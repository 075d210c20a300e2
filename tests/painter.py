"""A small painter for several processes: rows of one picture, the network's first layers, Adam.

    python painter.py NAME=VALUE...

`Painters` starts it as many processes; it is to the package what a command line is.
"""

import functools
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import nst_jax
from nst_jax import processes
from nst_jax.architecture import parameter_shapes
from nst_jax.checkpoint import Store
from nst_jax.flags import exit_code

TAPS = ("relu1_1", "relu2_1")
# With an epsilon that counts: what Adam divides by almost zero says nothing about rounding.
OPTIMIZER = optax.adam(0.02, eps=0.1)


def network():
    rng = np.random.default_rng(0)
    params = {
        name: rng.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in parameter_shapes(TAPS[-1]).items()
    }
    return nst_jax.build_vgg19(params, deepest=TAPS[-1], conv="direct")


@jax.jit
def begin(picture):
    return nst_jax.init(picture, optimizer=OPTIMIZER)


@jax.jit
def advance(state, targets, net):
    features = functools.partial(net, taps=TAPS)
    loss = functools.partial(nst_jax.style_transfer_loss, targets=targets, features=features)
    return nst_jax.step(state, loss=loss, optimizer=OPTIMIZER)[0]


def shared(tree, sharding):
    """Put on all devices what every process has."""
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(np.shape(x), sharding, np.asarray(x).__getitem__),
        tree,
    )


def paint(flags):
    if flags.idle:
        say("idle")
        time.sleep(flags.idle)
        return 0
    rng = np.random.default_rng(1)
    content, style = rng.uniform(size=(2, flags.side, 32, 3)).astype(np.float32)
    with Store(
        flags.folder,
        fingerprint={"side": flags.side, "style": hashlib.sha256(style).hexdigest()},
        complain=lambda line: print(line, file=sys.stderr),
    ) as store:
        mesh = jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(AxisType.Auto,))
        rows, every = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("rows", None))
        net = shared(network(), every)
        content, style = shared(content, rows), shared(style, every)
        features = jax.jit(functools.partial(net, taps=TAPS))
        targets = nst_jax.make_targets(
            features, content, style, content_layers=TAPS[-1:], style_layers=TAPS
        )
        fresh = begin(content)
        saved = store.resume(lambda _: fresh)
        state, first = (saved.state, saved.step) if saved else (fresh, 0)
        stop, code = [], 0
        signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
        processes.agree(False)  # all can be stopped now
        say(f"at {first}")
        for step in range(first + 1, flags.steps + 1):
            state = advance(state, targets, net)
            time.sleep(flags.pause)
            stopped = processes.agree(bool(stop))
            if step % flags.every == 0 or stopped or step == flags.steps:
                store.save(step, state, {"by": jax.process_count()})
                say(f"saved {step}")
            if stopped:
                code = 143
                break
    whole = jax.jit(lambda x: x, out_shardings=every)(state.variable)
    if processes.is_first():
        np.save(flags.output, np.asarray(whole))
    processes.leave()
    return code


def say(line):
    if processes.is_first():
        print(line, flush=True)


def main(argv):
    flags = SimpleNamespace(
        port=0, count=1, number=0, heartbeat=4, patience=20, side=64, steps=12, every=4,
        pause=0.0, idle=0, folder="checkpoints", output="picture.npy",
    )  # fmt: skip
    for word in argv:
        name, _, value = word.partition("=")
        setattr(flags, name, type(getattr(flags, name))(value))
    return processes.together(
        lambda: exit_code("painter", lambda: paint(flags)),
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

    def __init__(self, folder, *flags, count=2, devices=1):
        self._folder = folder
        port, root = free_port(), Path(__file__).parents[1]
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "PYTHONWARNINGS": "error",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
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

    def end(self, seconds=90):
        """Return the exit codes, and the time that it took all to end."""
        began = time.monotonic()
        codes = [
            process.wait(max(0.1, began + seconds - time.monotonic())) for process in self.processes
        ]
        return codes, time.monotonic() - began

    def picture(self, name="picture.npy"):
        codes, _ = self.end()
        assert codes == [0] * len(codes), [self.said(i) for i in range(len(codes))]
        return np.load(self._folder / name)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
