"""The download of weights from servers that misbehave, and by several processes at once."""

import contextlib
import hashlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest

from commands import within
from nst_jax.weights import download as downloads
from nst_jax.weights.download import DownloadError, download
from package import ROOT

slow = pytest.mark.slow
CONTENT = np.random.default_rng(0).bytes(3_000_000)
NAME = f"file-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"
MOST_SECONDS = 20  # of a download, with the limits below


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Limits that a test can wait for."""
    monkeypatch.setattr(downloads, "TIMEOUT", 0.5)
    monkeypatch.setattr(downloads, "RATE_SECONDS", 0.5)
    monkeypatch.setattr(downloads, "MOST_BYTES", 10_000_000)


@contextlib.contextmanager
def answering(*answers):
    """Serve one answer after the other, and the last one again and again, on bare sockets.

    An answer takes the connection and the first byte that was asked for.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening, contextlib.ExitStack() as stack:
        asked, ended = [], threading.Event()

        def work(connection, answer):
            with connection, contextlib.suppress(OSError):
                head = connection.recv(65536).decode()
                _, _, start = head.partition("Range: bytes=")
                asked.append(int(start.partition("-")[0]) if start else 0)
                answer(connection, asked[-1])

        def serve():
            for answer in itertools.chain(answers, itertools.repeat(answers[-1])):
                with contextlib.suppress(OSError):
                    connection, _ = listening.accept()
                    if ended.is_set():
                        connection.close()
                        return
                    threading.Thread(target=work, args=(connection, answer), daemon=True).start()

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/{NAME}"
        try:
            yield url, asked
        finally:
            ended.set()
            stack.enter_context(socket.create_connection(listening.getsockname()))
            thread.join()


def head(status="200 OK", **fields):
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def right(connection, start, body=CONTENT):
    status = "206 Partial Content" if start else "200 OK"
    connection.sendall(head(status, Content_Length=len(body) - start) + body[start:])


def cut(connection, start, after=1_500_000):
    body = CONTENT[start:]
    connection.sendall(head("206 Partial Content" if start else "200 OK", Content_Length=len(body)))
    connection.sendall(body[:after])


def cut_chunks(connection, start):
    connection.sendall(head(Transfer_Encoding="chunked") + b"100000\r\n" + CONTENT[:99])


def sends(data, connection, start):
    connection.sendall(data)


def endless(connection, start, first=b"", block=b"x" * 10**6, pause=0.0):
    connection.sendall(first)
    while True:
        connection.sendall(block)
        time.sleep(pause)


def silent(connection, start, first=b""):
    connection.sendall(first)
    time.sleep(60)


# What the server does, and what the message says; without a message the file is right in the end.
WRONG = np.random.default_rng(1).bytes(3_000_000)
SERVERS = {
    "cut, then right": ([cut, right], ""),
    "cut twice, then right": ([partial(cut, after=1_048_577), cut, right], ""),
    "cut at the end": ([partial(cut, after=2_999_999), right], ""),
    "cut soon, always": ([partial(cut, after=1)], "broke after 1 of"),
    "cut later, always": ([partial(cut, after=99_999)], "broke after 99999 of"),
    "cut in the head": ([partial(sends, b"HTTP/1.1 200")], ""),
    "cut in a chunk": ([cut_chunks], "IncompleteRead"),
    "resumed from another place": (
        [cut, lambda c, start: sends(head("206 Partial Content") + CONTENT[99:], c, start)],
        "not the file",
    ),
    "resumed from the beginning": ([cut, lambda c, start: right(c, 0)], ""),
    "too short": ([partial(right, body=CONTENT[:-1])], "not the file"),
    "too short, without a length": ([partial(sends, head() + CONTENT[:99])], "not the file"),
    "right, without a length": ([partial(sends, head() + CONTENT)], ""),
    "too long": ([partial(right, body=CONTENT + b"x")], "not the file"),
    "longer than it says": (
        [lambda c, s: sends(head(Content_Length=3_000_000) + CONTENT + b"x" * 99, c, s)],
        "",
    ),
    "too long to be true": ([partial(sends, head(Content_Length=10**15) + CONTENT)], "more than"),
    "endless": ([partial(endless, first=head())], "more than"),
    "endless chunks": (
        [partial(endless, first=head(Transfer_Encoding="chunked"), block=b"4\r\nabcd\r\n" * 9999)],
        "more than",
    ),
    "an endless head": (
        [partial(endless, first=b"HTTP/1.1 200 OK\r\n", block=b"a: b\r\n" * 999)],
        "headers",
    ),
    "an endless line": ([partial(endless, first=b"HTTP/1.1 ")], "line"),
    "wrong bytes": ([partial(right, body=WRONG)], "not the file"),
    "nothing": ([partial(right, body=b"")], "not the file"),
    "a page of HTML": ([partial(sends, head(Content_Length=6) + b"<html>")], "not the file"),
    "a length that is no number": ([partial(sends, head(Content_Length="many") + CONTENT)], ""),
    "a negative length": ([partial(sends, head(Content_Length=-5) + CONTENT)], ""),
    "a chunk that is no number": (
        [partial(sends, head(Transfer_Encoding="chunked") + b"xyz\r\n")],
        "",
    ),
    "no HTTP": ([partial(sends, b"\x16\x03\x01 hello\r\n\r\n")], ""),
    "a reason of several lines": ([partial(sends, head("500 a\x0bb\x0cc"))], "answered 500"),
    "no such file": ([partial(sends, head("404 Not Found", Content_Length=0))], "answered 404"),
    "no range": ([cut, partial(sends, head("416 Range", Content_Length=0))], "not the file"),
    "a redirect to itself": ([partial(sends, head("302 Found", Location=f"/{NAME}"))], "redirect"),
    "a redirect without a place": ([partial(sends, head("302 Found"))], "answered 302"),
    "a redirect to a file": (
        [partial(sends, head("302 Found", Location="file:///etc/passwd"))],
        "",
    ),
    "no answer": ([silent], "no answer within"),
    "a silent body": ([partial(silent, first=head(Content_Length=9))], "timed out"),
    "a drip": ([partial(endless, first=head(), block=b"x", pause=0.1)], "too slow"),
    "a drip with a length": (
        [partial(endless, first=head(Content_Length=10**6), block=b"x", pause=0.1)],
        "too slow",
    ),
    "a drip of a head": (
        [partial(endless, first=b"HTTP/1.1 200 OK\r\n", block=b"a", pause=0.1)],
        "no answer",
    ),
    "a drip of chunks": (
        [partial(endless, first=head(Transfer_Encoding="chunked"), block=b"1\r\nx\r\n", pause=0.1)],
        "too slow",
    ),
    "a drip after a start": (
        [partial(endless, first=head() + CONTENT[: 2 * 10**6], block=b"x", pause=0.1)],
        "too slow",
    ),
}
GOOD_AT_LAST = {name for name in SERVERS if "then right" in name} | {
    *("cut at the end", "resumed from the beginning", "right, without a length"),
    *("longer than it says", "a negative length"),
}
QUICK = ("cut, then right", "cut soon, always", "wrong bytes", "a redirect to itself", "endless")


@pytest.mark.parametrize("how", [x if x in QUICK else pytest.param(x, marks=slow) for x in SERVERS])
def test_bad_servers(tmp_path, record_property, how):
    """From a server that misbehaves the right file comes, or one line, in bounded time."""
    answers, said = SERVERS[how]
    with answering(*answers) as (url, _), within(MOST_SECONDS):
        if how in GOOD_AT_LAST:
            assert download(url, tmp_path).read_bytes() == CONTENT
        else:
            with pytest.raises(DownloadError) as caught:
                download(url, tmp_path)
            assert said in str(caught.value)
            assert "\n" not in str(caught.value)
            assert str(caught.value).isprintable()
    names = {path.name for path in tmp_path.iterdir()}
    assert names <= {NAME, f"{NAME}.lock", f"{NAME}.part"}
    assert (NAME in names) == (how in GOOD_AT_LAST)
    if said in ("not the file", "more than"):
        assert f"{NAME}.part" not in names
    # What was left does no harm: the next call has the right file.
    if f"{NAME}.part" in names and not how.startswith(("a drip", "a page", "cut in", "a silent")):
        with answering(right) as (url, _):
            assert download(url, tmp_path).read_bytes() == CONTENT
    record_property("cases", 1)


TWO = """
import sys, pathlib
from nst_jax.weights.download import download
print(download(sys.argv[1], pathlib.Path(sys.argv[2])).stat().st_size)
"""
WITHOUT_LOCKS = """
import contextlib
from nst_jax.weights import download
download.FileLock.acquire = lambda lock: contextlib.nullcontext()
"""


def trickle(connection, start, resumes=True):
    """Send the right file in a second, so that all processes meet it."""
    start = start if resumes else 0
    status = "206 Partial Content" if start else "200 OK"
    connection.sendall(head(status, Content_Length=len(CONTENT) - start))
    for place in range(start, len(CONTENT), 300_000):
        connection.sendall(CONTENT[place : place + 300_000])
        time.sleep(0.1)


def download_by_several(program, url, folder, delays):
    """Start processes, each so many seconds after the one before; all must have the file."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, url, str(folder)]
    started = []
    for delay in delays:
        time.sleep(delay)
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        )
    for process in started:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert output.strip() == str(len(CONTENT))
    assert (folder / NAME).read_bytes() == CONTENT


@slow
@pytest.mark.parametrize("count", [2, 6])
def test_several_processes_with_one_cache(tmp_path, record_property, count):
    """Processes that start at once with one cache folder have the file, and it is sent once."""
    with answering(trickle) as (url, asked):
        download_by_several(TWO, url, tmp_path / "cache", [0] * count)
    assert len(asked) == 1
    record_property("cases", count)


@slow
@pytest.mark.parametrize("resumes", [True, False])
def test_several_machines_with_one_cache(tmp_path, record_property, resumes):
    """Machines with one cache folder, in which locks reach no other machine, have the file."""
    delays = (0, 0, 0.3, 0.5)
    with answering(partial(trickle, resumes=resumes)) as (url, asked):
        download_by_several(WITHOUT_LOCKS + TWO, url, tmp_path, delays)
    assert len(asked) > 1
    record_property("cases", len(delays))


@slow
def test_a_process_that_is_killed_while_others_wait(tmp_path, record_property):
    """Where the process that downloads is killed, one that waits goes on from there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    first = partial(
        endless, first=head(Content_Length=len(CONTENT)) + CONTENT[:2_000_000], block=b"", pause=1
    )
    with answering(first, right) as (url, asked):
        command = [sys.executable, "-c", TWO, url, str(tmp_path)]
        one = subprocess.Popen(command, env=environment)
        part = tmp_path / f"{NAME}.part"
        with within(60):
            while not part.exists() or part.stat().st_size < 1_000_000:
                time.sleep(0.05)
        two = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        time.sleep(3)
        one.kill()
        one.wait()
        output, _ = two.communicate(timeout=120)
    assert output.strip() == str(len(CONTENT))
    assert asked[0] == 0
    assert asked[1] >= 1_000_000
    assert (tmp_path / NAME).read_bytes() == CONTENT
    record_property("cases", 1)
