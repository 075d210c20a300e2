"""Find a compiled program in the cache folder without tracing its function again.

JAX's own cache spares the compilation, but it knows a program by its lowered text, and to trace and
lower a step takes half a second, at each scale. Here a program is known by what that text is made
from: this package's code and the versions of what it calls, the machine, JAX's settings, the static
arguments, and the structure, shapes and types of the others.
"""

import contextlib
import functools
import gzip
import hashlib
import inspect
import os
import pickle
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

import jax
import psutil
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jax.experimental.serialize_executable import deserialize_and_load, serialize

from nst_jax.devices.backend import default_device
from nst_jax.io.files import atomic_write, is_private

_folder: ContextVar[Path | None] = ContextVar("folder", default=None)
_MOST_BYTES = 5 * 10**8  # some hundred programs
# Of each function; more than a run has scales. One takes tens of MB, and a server sees many sizes.
_MOST_LOADED = 16
_CALLED = ("jax", "jaxlib", "flax", "optax", "numpy")
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
# With them a jitted function does more than to run its program.
_DEBUGGING = ("jax_disable_jit", "jax_debug_nans", "jax_debug_infs")

P = ParamSpec("P")
R = TypeVar("R")


@contextlib.contextmanager
def cached_executables(folder: Path) -> Iterator[None]:
    """Let `CachedJit` functions take their programs from a folder inside, and leave new ones there.

    Args:
      folder: for this alone; it is made when it is needed. Programs are pickles, which run what
        they hold: a folder or a file that others can write to, or that belongs to another user, is
        not used.

    Warns:
      UserWarning: if the folder is not used for that reason.
    """
    if folder.exists() and not is_private(folder.stat()):
        warnings.warn(f"compiled programs are not kept: {shared_text(folder)}", stacklevel=3)
    token = _folder.set(folder)
    try:
        yield
    finally:
        _folder.reset(token)
        _bound(folder)


class CachedJit(Generic[P, R]):
    """`jax.jit` of a function; inside `cached_executables` a program that is there is not traced.

    That holds for arrays on JAX's first device. With others, inside of other transformations and
    while one of JAX's debugging modes is on, it is `jax.jit` alone, whose attributes it has.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        static_argnames: Sequence[str],
        donate_argnames: Sequence[str] = (),
    ):
        functools.update_wrapper(self, function)
        self._name = function.__qualname__
        self._signature = inspect.signature(function)
        self._static = frozenset(static_argnames)
        self._programs: dict[Path, Any] = {}
        self._jitted = jax.jit(
            function, static_argnames=static_argnames, donate_argnames=donate_argnames
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jitted, name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function, compiled."""
        program, given = self._find(args, kwargs)
        out: R = program(**given) if program else self._jitted(*args, **kwargs)
        return out

    def program(self, *args: Any, **kwargs: Any) -> Any:
        """Return the compiled program of a call; arguments may be `jax.ShapeDtypeStruct`s."""
        return self._find(args, kwargs)[0] or self._jitted.lower(*args, **kwargs).compile()

    def _find(self, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Return the program that is kept, and what it takes; None: `jax.jit` is to do all."""
        folder = _folder.get()
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        static = {name: x for name, x in bound.arguments.items() if name in self._static}
        given = {name: x for name, x in bound.arguments.items() if name not in static}
        key = _key(self._name, static, given) if folder else ""
        if not folder or not key:
            return None, given
        path = folder / f"{self._name}-{key}"
        program = self._programs.pop(path, None) or _load(path)
        program = program or _make(functools.partial(self._jitted.lower, **static, **given), path)
        self._programs[path] = program  # the last one to be forgotten
        while len(self._programs) > _MOST_LOADED:
            del self._programs[next(iter(self._programs))]
        return program, given


def _key(name: str, static: dict[str, Any], given: dict[str, Any]) -> str:
    """Return a digest of all that makes a program; "" where `jax.jit` shall do everything."""
    leaves, tree = jax.tree.flatten(given)
    arrays = [x for x in leaves if isinstance(x, jax.Array)]
    device, options = default_device(), cast(Any, jax.config)
    if device != jax.devices()[0] or any(getattr(options, name) for name in _DEBUGGING):
        return ""
    if any(isinstance(x, jax.core.Tracer) or x.devices() != {device} for x in arrays):
        return ""
    # By name, as `values` has not what a context manager has set.
    settings = {name: getattr(options, name, x) for name, x in sorted(options.values.items())}
    parts = [
        name,
        static,
        tree,
        [(x.shape, x.dtype, x.weak_type) for x in map(_typed, leaves)],
        settings,
        [os.environ.get(flag) for flag in _FLAGS],
        (device.platform, device.device_kind, device.client.platform_version),
        _code(),
        processor(),
    ]
    text = "\n".join(map(repr, parts))
    # An object without a text of its own is never the same again.
    return "" if " at 0x" in text else hashlib.sha256(text.encode()).hexdigest()


def _typed(x: Any) -> Any:
    return x if isinstance(x, jax.Array | jax.ShapeDtypeStruct) else jax.typeof(x)


@functools.cache
def _code() -> str:
    """Return a digest of this package's code, with the versions of what it calls."""
    digest = hashlib.sha256(repr([version(name) for name in _CALLED]).encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def processor() -> str:
    """Return a name for processors that run the same programs.

    Machines that share a home share the cache, and a foreign instruction kills the process.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = [platform.processor()]
    features = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def _load(path: Path) -> Any:
    """Return a program that can be called, or None: whatever is wrong, it can be made again."""
    try:
        if not is_private(path.parent.stat()):
            return None
        with path.open("rb") as file:
            if not is_private(os.fstat(file.fileno())):
                return None
            packed = file.read()
        os.utime(path)  # see `_bound`
        return deserialize_and_load(*pickle.loads(gzip.decompress(packed)))
    except Exception:
        return None


def _make(lower: Callable[[], Any], path: Path) -> Any:
    """Compile a program, and keep it if that can be done: a run goes on without."""
    # What XLA's CPU backend has read from JAX's own cache it cannot write again: functions are
    # missing then.
    with cache_settings({"jax_enable_compilation_cache": False}):
        compiled = lower().compile()
    with contextlib.suppress(Exception):
        # gzip's checksum will tell damage.
        packed = gzip.compress(pickle.dumps(serialize(compiled)), compresslevel=1)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if is_private(path.parent.stat()):
            with atomic_write(path) as temporary:
                temporary.touch(mode=0o600)
                temporary.write_bytes(packed)
    with contextlib.suppress(AttributeError):  # not everywhere, nor before psutil 7.2
        # What the compiler has freed, as much as the network takes, goes back to the system.
        psutil.heap_trim()
    return compiled


def shared_text(folder: Path) -> str:
    """Return what is wrong with a folder that `is_private` refuses, and what to do."""
    return f"others can change the folder {str(folder)!r}, and what it holds is run; remove it"


@contextlib.contextmanager
def cache_settings(settings: Mapping[str, Any]) -> Iterator[None]:
    """Set options of JAX's own cache inside; everything is as before at the end."""
    before = {name: getattr(jax.config, name) for name in settings}
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    reset_cache()  # JAX looks at the settings once


def _bound(folder: Path) -> None:
    """Remove what was used longest ago, where the folder holds too much."""
    with contextlib.suppress(OSError):  # another process may do the same
        files = [(path.stat(), path) for path in folder.iterdir()]
        room = _MOST_BYTES
        for found, path in sorted(files, key=lambda file: -file[0].st_mtime):
            room -= found.st_size
            if room < 0:
                path.unlink()
