"""Save and resume the state of a run with Orbax; each device has its own part of the state.

Orbax writes beside the older checkpoints and then renames, so a killed save leaves them intact.
"""

import gc
import json
import logging
import os
import re
import shutil
import sys
import threading
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock, Timeout
from jaxtyping import Array, PyTree, Shaped, UInt32

from nst_jax import __version__
from nst_jax.distributed.collectives import agree, is_first
from nst_jax.errors import InputError
from nst_jax.io.files import check_writable, is_temporary, write_json
from nst_jax.io.provenance import difference

_JOB, _LOCK = "job.json", "job.lock"
_UNFINISHED = ".orbax-checkpoint-tmp"  # the end of the name of what Orbax has not yet written


class Saved(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      step: number of updates made.
      state: on the devices that `resume` was asked for.
      extra: JSON values saved beside the state.
    """

    step: int
    state: PyTree[Array]
    extra: dict[str, Any]


class CheckpointStore:
    """A folder with the last two checkpoints of one job. All processes use it together.

    Args:
      folder: created if absent; the same for all processes, on a file system that they share.
      fingerprint: what identifies the job: settings and digests of the images, by name, as JSON
        values. The folder of another job is refused.
      chosen: the choices for automatic settings, by name, as JSON values; kept for `recall`.
      warn: called with one line about a checkpoint that cannot be read or written, or about
        another version of JAX.

    Raises:
      InputError: if the folder cannot be used, belongs to another job or to another version of this
        package or is in use by another run, if the fingerprint is empty, or if Orbax is not
        installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        fingerprint: Mapping[str, Any],
        chosen: Mapping[str, Any] = MappingProxyType({}),
        warn: Callable[[str], None],
    ):
        if not fingerprint:
            raise InputError(
                "the fingerprint is empty, so any job could go on from another's checkpoints; "
                "allowed is what identifies the job: settings and digests of its images"
            )
        self._ocp = _import_orbax()
        self._folder, self._warn = Path(folder).absolute(), warn
        self._lock = FileLock(self._folder / _LOCK, timeout=0)  # one run at a time
        self._unwritten = False  # whether the last `save` failed
        about = {"fingerprint": dict(fingerprint), "chosen": dict(chosen)}
        about["versions"] = {"nst_jax": __version__, "jax": jax.__version__}
        self._about: dict[str, Any] = json.loads(json.dumps(about))
        self._claim(self._about)
        self._silence = ExitStack()
        self._silence.enter_context(_quiet())
        self._manager = self._open()

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder. Nothing is left to write, as `save` returns when all is written."""
        self._manager.close()
        if self._unwritten:
            self._remove_unfinished()
        self._silence.close()
        self._lock.release()

    def delete(self) -> None:
        """Remove the folder with its checkpoints, as they are of no use any more.

        If that fails, or the process is killed there, the folder is still one of this job.
        """
        self._manager.close()
        if is_first():
            with suppress(OSError):
                for path in sorted(self._folder.iterdir(), key=lambda path: path.name == _JOB):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                self._folder.rmdir()

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint, readable or not; None if there is none."""
        step: int | None = self._manager.latest_step()
        return step

    def save(self, step: int, state: PyTree[Array | np.ndarray], extra: Mapping[str, Any]) -> None:
        """Save a state. On return it is complete on the disk, and at most two checkpoints remain.

        What cannot be written, as on a full disk, is named in a warning: the checkpoints before
        stay, and the next call may have more luck. A folder that has been removed is made again.

        Args:
          step: number of updates made; larger than any before.
          state: any pytree of arrays; with several processes each must span the devices of all.
          extra: JSON values to save beside the state; the same in all processes.

        Raises:
          InputError: if one of several processes cannot write.
        """
        if self._unwritten:
            self._remove_unfinished()
        try:
            self._write(step, state, extra)
            self._unwritten = False
        except (OSError, ValueError) as error:  # the latter is TensorStore's
            fault = (
                f"the checkpoint {self._folder / str(step)} cannot be written ({_reason(error)})"
            )
            if jax.process_count() > 1:  # the others may wait for it
                if not _is_systems(error):  # a process was lost
                    raise
                raise InputError(f"{fault}; make room, and start all again") from error
            self._remove_unfinished()
            if not self._unwritten:
                self._warn(f"{fault}; going on without")
            self._unwritten = True

    def _remove_unfinished(self) -> None:
        """Remove what a failed save has left; its other threads may still write some of it."""
        for path in self._folder.glob(f"*{_UNFINISHED}"):
            shutil.rmtree(path, ignore_errors=True)

    def _write(
        self, step: int, state: PyTree[Array | np.ndarray], extra: Mapping[str, Any]
    ) -> None:
        if is_first() and not (self._folder / _JOB).exists():  # somebody has removed it
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / _JOB, _sealed(self._about))
        args = self._ocp.args
        about = _sealed({"extra": dict(extra), "sum": _checksum(state)})
        self._manager.save(
            step,
            args=args.Composite(state=args.PyTreeSave(_named(state)), about=args.JsonSave(about)),
            force=True,
        )
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def resume(self, like: Callable[[dict[str, Any]], PyTree[Any]]) -> Saved | None:
        """Return the newest checkpoint that can be read; None if there is none.

        An unreadable checkpoint is named in a warning and moved aside, and the one before is tried.

        Args:
          like: takes `extra` to a pytree with the shapes and dtypes that the state shall have: of
            NumPy arrays, for which it has others, or of JAX's arrays or `jax.ShapeDtypeStruct`,
            whose shardings it gets; without one, JAX's default device has it. The devices may
            differ from those of `save`.

        Raises:
          InputError: if there are checkpoints, but none can be read.
        """
        with warnings.catch_warnings():
            # Of the reads that are left alone where another one has failed.
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            return self._newest(like)

    def _newest(self, like: Callable[[dict[str, Any]], PyTree[Any]]) -> Saved | None:
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            saved, reason = None, ""
            try:
                saved = self._read(step, like)
            except Exception as error:  # Orbax and TensorStore raise many kinds for damage
                if "RESOURCE_EXHAUSTED" in str(error):  # the checkpoint is intact
                    raise
                reason = _reason(error)
            if not agree(saved is None):
                return saved
            if is_first():
                self._warn(
                    f"the checkpoint {self._folder / str(step)} cannot be read "
                    f"({reason or 'by another process'}); trying the one before"
                )
                os.replace(self._folder / str(step), self._aside(step))
            agree(False)  # wait until it has been moved
            gc.collect()  # reads that were left alone print where they are removed
            self._manager.reload()
        if steps:
            raise InputError(
                f"no checkpoint in {str(self._folder)!r} can be read; give another folder to begin "
                "anew"
            )
        return None

    def _aside(self, step: int) -> Path:
        names = (f"damaged-{step}-{n}" for n in range(len(os.listdir(self._folder)) + 1))
        return next(path for path in map(self._folder.joinpath, names) if not path.exists())

    def _read(self, step: int, like: Callable[[dict[str, Any]], PyTree[Any]]) -> Saved:
        args = self._ocp.args
        about = self._manager.restore(step, args=args.Composite(about=args.JsonRestore()))["about"]
        if not _is_sealed(about):
            raise ValueError("its checksum is wrong")
        leaves, structure = jax.tree.flatten(like(about["extra"]))
        wanted = _named([_on_a_device(x) for x in leaves])
        restore_args = self._ocp.checkpoint_utils.construct_restore_args(wanted)
        restored = self._manager.restore(
            step,
            args=args.Composite(state=args.PyTreeRestore(wanted, restore_args=restore_args)),
        )["state"]
        found = [restored[name] for name in wanted]
        if [x.shape for x in found] != [x.shape for x in leaves]:
            raise ValueError("its shapes are others")
        state = jax.tree.unflatten(structure, found)
        if _checksum(state) != about["sum"]:
            raise ValueError("its checksum is wrong")
        return Saved(step, state, about["extra"])

    def _open(self) -> Any:
        ocp = self._ocp
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,
        )
        # Nobody changes the state while `save` waits, and its float numbers hardly compress: copies
        # of either kind would take as much memory as the state.
        arrays = ocp.type_handlers.create_type_handler_registry(
            (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
            (jax.Array, ocp.type_handlers.ArrayHandler()),
        )
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(
                use_compression=False, type_handler_registry=arrays
            ),
            "about": ocp.JsonCheckpointHandler(),
        }
        return ocp.CheckpointManager(self._folder, options=options, item_handlers=handlers)

    def _claim(self, about: dict[str, Any]) -> None:
        """Claim the folder unless it is another job's; all processes come to the same result."""
        job, fault = self._folder / _JOB, ""
        try:
            if is_first():
                self._folder.mkdir(parents=True, exist_ok=True)
                check_writable(job, what="checkpoints")
                self._lock.acquire()
            if job.exists():
                fault = self._fault(_read_job(job), about)
            elif is_first() and any(
                path.name != _LOCK and not is_temporary(path) for path in self._folder.iterdir()
            ):
                fault = "is not empty, but holds no checkpoints; give a new folder"
        except InputError as error:
            fault = f"cannot be used: {error}"
        except Timeout:
            fault = "is in use by another run; wait for its end, or give another folder"
        except OSError as error:
            fault = f"cannot be used: {error.strerror}; give another one"
        except ValueError:
            fault = f"has a damaged {_JOB}, or that of an older version; give another folder"
        refused = agree(bool(fault))
        if not refused and is_first() and not job.exists():
            with suppress(OSError):
                write_json(job, _sealed(about))
        agree(False)
        if not refused and not job.exists():
            fault = (
                "cannot be written to; give another one"
                if is_first()
                else f"is not shared with process {jax.process_index()}; give one that all see"
            )
        if agree(bool(fault)):
            self._lock.release()
            fault = fault or "is refused by another process, which says why"
            raise InputError(f"the checkpoint folder {str(self._folder)!r} {fault}")

    def _fault(self, had: dict[str, dict[str, Any]], has: dict[str, dict[str, Any]]) -> str:
        """Say why a run does not go on from another one's checkpoints; "" if it does."""
        if other := difference(had["fingerprint"], has["fingerprint"]):
            return (
                f"belongs to another job, made from {other}; give what was given then, or another "
                "folder"
            )
        old, new = had["versions"], has["versions"]
        if old["nst_jax"] != new["nst_jax"]:
            return (
                f"is of nst_jax {old['nst_jax']}, and this is {new['nst_jax']}; go on with the "
                "version of then, or give another folder"
            )
        if old["jax"] != new["jax"] and is_first():
            self._warn(
                f"the checkpoints in {self._folder} are of jax {old['jax']}, and this is "
                f"{new['jax']}: the picture may differ in the last bits"
            )
        return ""


def recall(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the values chosen for the job of a checkpoint folder; an empty dict if it has none.

    Call it before the job is prepared. `CheckpointStore` reports what is wrong with a folder.
    """
    try:
        return dict(_read_job(Path(folder) / _JOB)["chosen"])
    except (OSError, ValueError):
        return {}


def _read_job(path: Path) -> dict[str, dict[str, Any]]:
    """Read what `CheckpointStore` keeps of a job; ValueError if the file is another one."""
    about = json.loads(path.read_text())
    if not _is_sealed(about):
        raise ValueError("damaged, or not written by CheckpointStore")
    return dict(about)


def _sealed(about: dict[str, Any]) -> dict[str, Any]:
    """Return JSON values with their checksum."""
    return about | {"crc": zlib.crc32(json.dumps(about, sort_keys=True).encode())}


def _is_sealed(about: Any) -> bool:
    """Return whether JSON values are what `_sealed` has returned."""
    rest = (
        {name: x for name, x in about.items() if name != "crc"} if isinstance(about, dict) else {}
    )
    return bool(rest) and about == _sealed(rest)


def _is_systems(error: Exception) -> bool:
    """Return whether the operating system has refused something, by itself or to TensorStore."""
    return isinstance(error, OSError) or "os_error_code" in str(error)


def _reason(error: Exception) -> str:
    """Return the first sentence of an error, or the system's own words."""
    said = str(error).strip() or repr(error)
    if known := re.search(r"os_error_code='(\d+)'", said):  # TensorStore's
        return os.strerror(int(known[1]))
    said = getattr(error, "strerror", None) or said
    return said.partition("\n")[0].partition(". ")[0][:200]


def _named(state: PyTree[Any]) -> dict[str, Any]:
    """Name the leaves by position, so that Orbax sees a dict whatever the classes of the tree."""
    return {f"leaf{i:03}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}


def _on_a_device(like: Any) -> Any:
    """Return a NumPy array as it is, and the shape of any other with its sharding."""
    if isinstance(like, np.ndarray):
        return like
    default = jnp.zeros(()).sharding
    return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=like.sharding or default)


def _checksum(state: PyTree[Array | np.ndarray]) -> int:
    """Sum the bits of all leaves as integers: the result is the same on any devices."""
    # One leaf after the other, as JAX copies a NumPy array.
    sums = [int(_sum_of_bits(leaf)) for leaf in jax.tree.leaves(state)]
    return sum((2 * i + 1) * own for i, own in enumerate(sums)) % 2**32


@jax.jit
def _sum_of_bits(leaf: Shaped[Array | np.ndarray, "..."]) -> UInt32[Array, ""]:
    whole = leaf if leaf.dtype != jnp.bool_ else leaf.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
    bits = jax.lax.bitcast_convert_type(whole, unsigned[np.dtype(whole.dtype).itemsize])
    return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Orbax's log and threads: it raises its errors anyway, and they speak later too."""
    before = threading.excepthook, sys.unraisablehook
    levels = {logger: logger.level for logger in map(logging.getLogger, ("absl", "asyncio"))}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    threading.excepthook = in_threads = _without_orbax(before[0])
    sys.unraisablehook = unraisable = _without_orbax(before[1])
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        if threading.excepthook is in_threads:
            threading.excepthook = before[0]
        if sys.unraisablehook is unraisable:
            sys.unraisablehook = before[1]


def _without_orbax(show: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return a hook that shows an exception unless it comes from Orbax or its event loop."""

    def hook(args: Any) -> None:
        frames = traceback.walk_tb(args.exc_traceback)
        names = [frame.f_code.co_filename for frame, _ in frames]
        if not any("orbax" in name or "asyncio" in name for name in names):
            show(args)

    return hook


def _import_orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError:
        raise InputError(
            "checkpoints need Orbax, which is not installed: pip install '.[checkpoint]'"
        ) from None
    return orbax.checkpoint
