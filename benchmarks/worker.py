"""One mode at one size in a process of its own: `python -m benchmarks.worker SPEC`.

SPEC is a `Spec` as JSON. The worker answers in lines of JSON on standard output: first a `Start`,
then a `Block` for each line "run N" of standard input, until standard input ends. A failure is the
line {"failure": reason}, and the worker ends.
"""

import dataclasses
import functools
import json
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from benchmarks.modes import MODES, Platform


@dataclass(frozen=True)
class Spec:
    """The task of a worker.

    Attributes:
      mode: a name of `modes.MODES`.
      inputs: folder with the files of `inputs.prepare`.
      size: side of the square picture in px.
      platform: the platform that the worker must compute on.
      threads: number of CPUs that the worker may use; None: all.
      began: `time.monotonic()` just before the process was started.
    """

    mode: str
    inputs: str
    size: int
    platform: Platform
    threads: int | None
    began: float


@dataclass(frozen=True)
class Start:
    """The cost of a start, up to the first step.

    Attributes:
      import_seconds: importing the framework and the program.
      prepare_seconds: weights, network and targets, with the compilation of the targets' program.
      first_step_seconds: the first step, with its compilation.
      first_picture_seconds: from the process's start until the host has the picture after one step.
      peak_bytes: the most memory so far, of the process on a CPU, else of the device.
    """

    import_seconds: float
    prepare_seconds: float
    first_step_seconds: float
    first_picture_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Block:
    """The cost of a block of steps.

    Attributes:
      seconds: from the first step's start until the last one was made.
      idle_cpu_seconds: CPU time that the process used since the block before, without a request.
      peak_bytes: as in `Start`, so far.
    """

    seconds: float
    idle_cpu_seconds: float
    peak_bytes: int


def main() -> int:
    """Serve the `Spec` of the first argument and the requests on standard input."""
    # What frameworks print to standard output goes to standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        _serve(Spec(**json.loads(sys.argv[1])), answers)
    except Exception as error:
        _tell(answers, {"failure": reason(error)})
        return 1
    return 0


def reason(error: BaseException) -> str:
    """Return in one short line why a mode cannot be measured."""
    text = str(error).strip()
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text:
        return "out of memory"
    if "InvalidCxxCompiler" in text or "No working C++ compiler" in text:
        return "torch.compile finds no C++ compiler"
    first = text.splitlines()[0] if text else ""
    line = first if isinstance(error, ValueError) and first else f"{type(error).__name__}: {first}"
    return line if len(line) <= 100 else line[:99] + "…"


def _serve(spec: Spec, answers: TextIO) -> None:
    if spec.threads is not None:
        # Set before the frameworks count the CPUs for their threads.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: spec.threads])
    began = time.perf_counter()
    mode = MODES[spec.mode]
    if mode.precision == "tf32" and spec.platform != "gpu":
        raise ValueError("tf32 is float32 on a GPU")
    side: Any
    if mode.framework == "jax":
        from benchmarks import jax_side as side
    else:
        from benchmarks import torch_side as side
    imported = time.perf_counter()
    side.check_device(spec.platform)
    import numpy as np

    folder = Path(spec.inputs)
    images = (np.load(folder / f"{role}-{spec.size}.npy") for role in ("content", "style"))
    read = functools.partial(side.load, folder / f"{mode.framework}.safetensors")
    with side.kept_programs():
        job = side.Job(mode, *images, read)
        prepared = time.perf_counter()
        job.run(1)
        stepped = time.perf_counter()
        if not np.isfinite(job.picture()).all():
            raise ValueError("the picture is not finite after one step")
        start = Start(
            import_seconds=imported - began,
            prepare_seconds=prepared - imported,
            first_step_seconds=stepped - prepared,
            first_picture_seconds=time.monotonic() - spec.began,
            peak_bytes=_peak(job),
        )
        _tell(answers, dataclasses.asdict(start))
        _answer(job, answers)


def _answer(job: Any, answers: TextIO) -> None:
    """Make and time the steps that standard input asks for."""
    cpu = time.process_time()
    for line in sys.stdin:
        idle = time.process_time() - cpu
        clock = time.perf_counter()
        job.run(int(line.removeprefix("run ")))
        seconds = time.perf_counter() - clock
        _tell(answers, dataclasses.asdict(Block(seconds, idle, _peak(job))))
        cpu = time.process_time()


def _peak(job: Any) -> int:
    on_device = job.device_peak()
    return int(on_device) if on_device is not None else resident_peak()


def resident_peak() -> int:
    """Return the most bytes of memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the parent's before exec
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _tell(answers: TextIO, content: dict[str, Any]) -> None:
    print(json.dumps(content), file=answers, flush=True)


if __name__ == "__main__":
    code = main()
    # Not `sys.exit`: frameworks end their threads slowly, or crash while they do.
    sys.stderr.flush()
    os._exit(code)
