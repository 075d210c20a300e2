"""Fetch one large file over HTTP: with progress, resumed after a break, checked by its hash."""

import contextlib
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from filelock import FileLock

from nst_jax.errors import InputError
from nst_jax.io.files import within

# Seconds without an answer, or without a byte, after which the connection is given up.
TIMEOUT = 10.0
# A slower server is given up: at this rate the largest file takes a day.
LEAST_RATE = 6000.0  # bytes a second, on average over `RATE_SECONDS`
RATE_SECONDS = 60.0
_LEAST_BYTES = 10**6  # that a try must bring, or the next one is left to the next call
MOST_BYTES = 2**31  # of a file; torchvision's have 0.55 GB
_BLOCK = 1 << 20

# Called with the number of bytes received, and of all bytes (None if the server does not say).
Progress = Callable[[int, int | None], None]


class DownloadError(InputError):
    """A download fails: no network, no such file, a broken transfer or a wrong hash."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_prefix(name: str) -> str:
    """Return the digits between the last "-" and the suffix, as in "vgg19-dcbb9e9d.pth".

    This is torch.hub's convention for the start of a file's SHA-256.

    Raises:
      InputError: if the name has no such digits.
    """
    match = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    if not match:
        raise InputError(
            f"{name}: the name must end in the first digits of its SHA-256, as name-1234abcd.pth"
        )
    return match[1]


def check_hash(path: Path) -> None:
    """Raise DownloadError if a file's SHA-256 does not start with the digits in its name."""
    expected, digest = hash_prefix(path.name), sha256_of(path)
    if not digest.startswith(expected):
        raise DownloadError(
            f"{path} is altered or truncated: its SHA-256 starts with {digest[: len(expected)]}, "
            f"its name says {expected}; delete it and try again"
        )


def download(url: str, folder: Path, *, progress: Progress | None = None) -> Path:
    """Download `url` into `folder` unless it is there, and check the hash in its name.

    Received bytes are kept in a `.part` file. A broken transfer is continued at once, as long as
    every try receives a megabyte; else the next call continues it, even after this process was
    killed. A lock keeps two processes from writing the file at once. Where it does not work, as in
    some network folders, both write the same bytes at the same places.

    Args:
      url: its last part is the file's name, which ends in the first digits of its SHA-256.
      folder: created if absent.
      progress: called after every block.

    Raises:
      DownloadError: if the file cannot be downloaded, comes too slowly, has more than 2 GiB or
        another hash.
    """
    name = Path(urllib.parse.urlsplit(url).path).name
    hash_prefix(name)
    target, part = folder / name, folder / f"{name}.part"
    with locked(target):
        if target.exists():
            check_hash(target)
            return target
        try:
            _fetch_all(url, part, progress)
            expected, digest = hash_prefix(name), sha256_of(part)
            if not digest.startswith(expected):
                part.unlink()  # not worth continuing
                raise DownloadError(
                    f"what {url} sent is not the file: its SHA-256 starts with "
                    f"{digest[: len(expected)]}, not with {expected}; try again"
                )
            os.replace(part, target)
        except FileNotFoundError:  # another machine, which the lock does not reach, was first
            if not target.exists():
                raise DownloadError(f"{part} was removed; try again") from None
            check_hash(target)
    return target


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time make a file; the others wait here for it.

    Args:
      path: of the file. Its folder is created if absent; the lock lies beside the file.

    Raises:
      DownloadError: if the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(path.with_name(f"{path.name}.lock")).acquire()
    except OSError as error:
        raise DownloadError(
            f"cannot write to {path.parent}: {error.strerror}; set NST_JAX_CACHE to another folder"
        ) from error
    with held:
        yield


def _fetch_all(url: str, part: Path, progress: Progress | None) -> None:
    while True:
        before = _size(part)
        try:
            return _fetch(url, part, progress)
        except DownloadError as error:  # to continue at once would not help
            raise DownloadError(f"cannot download {url}: {error}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if _size(part) < before + _LEAST_BYTES:
                raise DownloadError(f"cannot download {url}: {_reason(error)}") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        text = f"the server answered {error.code} {error.reason}"
    else:
        text = str(getattr(error, "reason", error)) or type(error).__name__
    return "".join(x if x.isprintable() else "?" for x in " ".join(text.split()))


def _open(request: urllib.request.Request) -> Any:
    """Send a request and return the answer, within `TIMEOUT` in all.

    A socket's own timeout starts anew for each address of a server, and does not include the
    look-up of its name.
    """
    try:
        return within(TIMEOUT, lambda: urllib.request.urlopen(request, timeout=TIMEOUT))
    except TimeoutError:
        raise TimeoutError(f"no answer within {TIMEOUT:g} s") from None


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """Append to `part` whatever the server still has to send."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"User-Agent": "nst-jax"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = _open(request)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # nothing is left to send; the caller checks the hash
        raise
    with response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        have = have if resumed else 0
        left = response.headers.get("Content-Length")
        total = have + int(left) if left else None
        part.touch()
        with part.open("r+b") as file:
            file.seek(have)
            for block in _blocks(response):
                file.write(block)
                have += len(block)
                if progress:
                    progress(have, total)
                if max(have, total or 0) > MOST_BYTES:
                    part.unlink()
                    raise DownloadError(f"the file has more than {MOST_BYTES / 2**30:g} GiB")
            file.truncate()  # what an earlier try left behind the end
    if total is not None and have < total:
        raise ConnectionError(
            f"the connection broke after {have} of {total} bytes; run again to continue there"
        )


def _blocks(response: Any) -> Iterator[bytes]:
    """Yield what a server sends; DownloadError if it sends less than `LEAST_RATE`."""
    began, received = time.monotonic(), 0
    while block := response.read1(_BLOCK):
        yield block
        received += len(block)
        seconds = time.monotonic() - began
        if seconds > RATE_SECONDS:
            if received < seconds * LEAST_RATE:
                raise DownloadError(
                    f"{received} bytes in {seconds:.0f} s are too slow; run again to continue there"
                )
            began, received = time.monotonic(), 0
