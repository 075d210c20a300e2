"""Start the workers of one size side by side, and let them work in turns."""

import contextlib
import dataclasses
import json
import os
import random
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.modes import MODES, Platform
from benchmarks.work import step_bytes, step_flops
from benchmarks.worker import Block, Spec, Start
from nst_jax.transfer.pace import steps_of_call

Cache = Literal["off", "cold", "warm", "both"]
ROOT = Path(__file__).parents[1]
# A block takes about this long, as a call in the main job, unless its number of steps is given.
_BLOCK_SECONDS = 2.0
_MOST_STEPS = 200  # of one call to nst_jax's program
# After a block, the OpenMP threads of a worker look for more work before they sleep.
_SETTLE_SECONDS = 0.05


class WorkerError(Exception):
    """A mode cannot be measured; the message is the reason in one line."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
      modes: names of `modes.MODES`.
      sizes: sides of the square picture in px.
      rounds: timed blocks of each worker.
      steps: steps in a block; None: as many as a call of the main job makes.
      cache: which start is measured: "cold" with an empty compilation cache, "warm" with the cache
        of an earlier process, "both", or "off" without a cache.
      platform: the platform to compute on.
      threads: CPUs that a worker may use; None for all.
      timeout: seconds that a worker may need for one answer.
    """

    modes: tuple[str, ...]
    sizes: tuple[int, ...]
    rounds: int
    steps: int | None
    cache: Cache
    platform: Platform
    threads: int | None
    timeout: float


@dataclass(frozen=True)
class Result:
    """What one mode took at one size.

    Attributes:
      mode: name of the mode.
      size: side of the square picture in px.
      failure: the reason, if there are no numbers.
      steps: steps in a block.
      seconds: seconds a step, of each block.
      starts: a `worker.Start` for each of "off", "cold" or "warm" that was measured.
      peak_bytes: peak memory of the timed worker.
      idle_cpu_seconds: most CPU time that the worker used between two of its blocks.
    """

    mode: str
    size: int
    failure: str | None = None
    steps: int = 0
    seconds: tuple[float, ...] = ()
    starts: Mapping[str, Start] = field(default_factory=dict)
    peak_bytes: int = 0
    idle_cpu_seconds: float = 0.0

    @property
    def median(self) -> float:
        """Median seconds a step."""
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        """Seconds a step of the fastest block."""
        return min(self.seconds)

    @property
    def flops(self) -> int:
        """Floating-point operations of a step by direct convolution."""
        return step_flops(self.size, self.size)

    @property
    def rate(self) -> float:
        """`flops` a second; an algorithm that multiplies less may exceed the machine's rate."""
        return self.flops / self.median

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers, for JSON."""
        found: dict[str, Any] = dataclasses.asdict(self)
        found["starts"] = {name: dataclasses.asdict(start) for name, start in self.starts.items()}
        found["flops"] = self.flops
        itemsize = 2 if MODES[self.mode].precision == "bfloat16" else 4
        found["bytes"] = step_bytes(self.size, self.size, itemsize)
        if not self.failure:
            found |= {"median": self.median, "least": self.least, "flops_per_second": self.rate}
        return found


class Worker:
    """The driver's side of a process of `benchmarks.worker`."""

    def __init__(self, spec: Spec, environment: Mapping[str, str], timeout: float):
        self._timeout = timeout
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        spec = dataclasses.replace(spec, began=time.monotonic())
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(dataclasses.asdict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )

    def start(self) -> Start:
        """Wait for the first step."""
        return Start(**self._answer())

    def run(self, steps: int) -> Block:
        """Make steps and time them."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_answer` finds the reason
            self._process.stdin.write(f"run {steps}\n".encode())
            self._process.stdin.flush()
        return Block(**self._answer())

    def close(self) -> None:
        """End the process, whatever it does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], self._timeout)[0]:
            self._process.kill()
            raise WorkerError(f"no answer within {self._timeout:g} s")
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self._cause_of_death())
        answer: dict[str, Any] = json.loads(line)
        if "failure" in answer:
            raise WorkerError(answer["failure"])
        return answer

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        if code == -9:
            return "killed (out of memory?)"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"exit code {code}" + (f": {lines[-1][:100]}" if lines else "")


def worker_environment(plan: Plan, cache: Path | None) -> dict[str, str]:
    """Return the environment of a worker whose compilers keep their programs in `cache`."""
    found = dict(os.environ)
    # `benchmarks` is in the source tree only; `nst_jax` may be installed or not.
    found["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), found.get("PYTHONPATH"))))
    found["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if plan.platform == "cpu":
        found |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    for name in ("JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        found.pop(name, None)
    if cache is None:
        return found | {
            "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
            "JAX_ENABLE_COMPILATION_CACHE": "0",
        }
    return found | {
        "JAX_ENABLE_COMPILATION_CACHE": "1",
        "NST_JAX_CACHE": str(cache / "jax"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "CUDA_CACHE_PATH": str(cache / "cuda"),
    }


def measure(
    plan: Plan, inputs: Path, size: int, say: Callable[[str], None], seed: int = 0
) -> list[Result]:
    """Measure all modes at one size: start all, then time them in turns, in a shuffled order.

    Args:
      plan: what to measure.
      inputs: folder with the files of `inputs.prepare`.
      size: one of the plan's sizes.
      say: takes a text on the progress.
      seed: seed of the order.
    """
    results = {mode: Result(mode, size) for mode in plan.modes}
    workers: dict[str, Worker] = {}
    with contextlib.ExitStack() as stack:
        for mode in plan.modes:
            say(f"{size} px: starting {mode}")
            try:
                workers[mode], starts = _start(plan, inputs, size, mode, stack)
                steps = plan.steps or _calibrate(workers[mode])
                results[mode] = Result(mode, size, steps=steps, starts=starts)
            except WorkerError as error:
                workers.pop(mode, None)
                results[mode] = Result(mode, size, failure=str(error))
        for mode, done in _turns(plan.rounds, workers, seed):
            say(f"{size} px: round {done} of {plan.rounds}, {mode}")
            time.sleep(_SETTLE_SECONDS)
            try:
                block = workers[mode].run(results[mode].steps)
            except WorkerError as error:
                del workers[mode]
                results[mode] = Result(mode, size, failure=str(error))
                continue
            results[mode] = add_block(results[mode], block)
    return list(results.values())


def add_block(result: Result, block: Block) -> Result:
    """Return the result with one more block."""
    return dataclasses.replace(
        result,
        seconds=(*result.seconds, block.seconds / result.steps),
        peak_bytes=max(result.peak_bytes, block.peak_bytes),
        idle_cpu_seconds=max(result.idle_cpu_seconds, block.idle_cpu_seconds),
    )


def _turns(rounds: int, workers: Mapping[str, Worker], seed: int) -> Iterator[tuple[str, int]]:
    shuffle = random.Random(seed).shuffle
    for done in range(1, rounds + 1):
        modes = sorted(workers)
        shuffle(modes)
        for mode in modes:
            yield mode, done


def _start(
    plan: Plan, inputs: Path, size: int, mode: str, stack: contextlib.ExitStack
) -> tuple[Worker, dict[str, Start]]:
    """Start a worker for each kind of start; return the last one and what each start took."""
    kinds: Sequence[str] = ("cold", "warm") if plan.cache in ("warm", "both") else (plan.cache,)
    cache = None
    if plan.cache != "off":
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
    spec = Spec(mode, str(inputs), size, plan.platform, plan.threads, began=0)
    starts = {}
    for kind in kinds:
        worker = Worker(spec, worker_environment(plan, cache), plan.timeout)
        if kind == kinds[-1]:
            stack.callback(worker.close)
            starts[kind] = worker.start()
            break
        with contextlib.closing(worker):
            starts[kind] = worker.start()
    if plan.cache == "warm":
        del starts["cold"]
    return worker, starts


def _calibrate(worker: Worker) -> int:
    """Return how many steps a call of the main job makes; the trial steps also warm up."""
    made, block = 1, worker.run(1)
    if block.seconds < _BLOCK_SECONDS / 5:
        made = min(_MOST_STEPS, max(1, int(_BLOCK_SECONDS / 5 / block.seconds)))
        block = worker.run(made)
    return min(_MOST_STEPS, steps_of_call(_BLOCK_SECONDS, block.seconds / made))
