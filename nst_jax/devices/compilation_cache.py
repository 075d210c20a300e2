"""Keep compiled programs in the cache folder, so that the next run of a command line has them."""

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from nst_jax.devices.executable_cache import (
    cache_settings,
    cached_executables,
    processor,
    shared_text,
)
from nst_jax.errors import InputError
from nst_jax.io.cache_folder import cache_dir
from nst_jax.io.files import check_writable, is_private

_SETTINGS = {
    # Small programs too: reading all of a run's takes 0.05 s, compiling the small ones alone 0.1 s.
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_compilation_cache_max_size": 10**9,  # bytes; what was used longest ago goes first
}


def compiled_dir() -> Path:
    """Return the folder for programs that were compiled for a processor like this one."""
    return cache_dir() / "compiled" / processor()


@contextmanager
def kept_programs(warn: Callable[[str], None]) -> Iterator[None]:
    """Let JAX take programs from `compiled_dir` inside, and leave there what it has to compile.

    Whoever has set JAX_COMPILATION_CACHE_DIR or turned the cache off keeps their own way. A folder
    that cannot be used costs time, never the run. Everything is as before at the end.

    Args:
      warn: takes one line on what is wrong with the folder, at most once.
    """
    options: Any = jax.config
    if options.jax_compilation_cache_dir is not None or not options.jax_enable_compilation_cache:
        yield
        return
    folder = compiled_dir()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_private(folder)
        _check_private(folder / "ready")
        check_writable(folder / "program", what="compiled programs")
        _remove_unfinished(folder)
    except (InputError, OSError) as error:
        warn(f"compiled programs are not kept ({error}); set NST_JAX_CACHE to another folder")
        yield
        return
    settings: dict[str, Any] = {"jax_compilation_cache_dir": str(folder)}
    settings |= {name: x for name, x in _SETTINGS.items() if name.upper() not in os.environ}
    faults = _faults_repaired(folder, warn)
    with cache_settings(settings), faults, cached_executables(folder / "ready"):
        yield


def _check_private(folder: Path) -> None:
    """Raise InputError if others can change what a folder holds: programs, which are run."""
    if folder.exists() and not is_private(folder.stat()):
        raise InputError(shared_text(folder))


def _remove_unfinished(folder: Path) -> None:
    """Remove what a killed run has left; JAX would write nothing more beside it."""
    for entry in folder.glob("*-cache"):
        if not entry.with_name(entry.name.removesuffix("-cache") + "-atime").exists():
            entry.unlink(missing_ok=True)


@contextmanager
def _faults_repaired(folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """Remove programs that cannot be read: JAX compiles them again, but would not replace them."""
    pattern = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(\w+)'")
    warned = False

    def show(message: Warning | str, *arguments: Any, **options: Any) -> None:
        nonlocal warned
        fault = pattern.match(str(message))
        if not fault:
            return show_as_usual(message, *arguments, **options)
        if fault[1] == "reading":
            for file in folder.glob(f"{fault[2]}-*"):
                file.unlink(missing_ok=True)
        if not warned:
            warned = True
            reason = str(message)[fault.end() :].lstrip(": ")
            warn(f"{fault[1]} compiled programs in {folder} failed ({reason}); going on")

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=pattern.pattern)
        show_as_usual = warnings.showwarning
        warnings.showwarning = show
        yield
