"""Processes that share a picture: real ones, connected by gloo, and what becomes of them."""

import signal
import socket
import subprocess
import sys
import time

import jax
import pytest

from nst_jax.distributed import launch
from nst_jax.errors import InputError
from package import ROOT
from painter import Painters
from ports import free_port

TOGETHER = """
import sys
from nst_jax.distributed import launch
sys.exit(launch.together(lambda: 0, program="p", **eval(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "a:1"}, "number of processes None"),
        ({"processes": 2, "process": 0}, "coordinator is None"),
        ({"coordinator": "a", "processes": 2, "process": 0}, "give HOST:PORT"),
        ({"coordinator": "a:0", "processes": 2, "process": 0}, "give HOST:PORT"),
        ({"coordinator": "a:65536", "processes": 2, "process": 0}, "give HOST:PORT"),
        ({"coordinator": ":1", "processes": 2, "process": 0}, "give HOST:PORT"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "process 2 of 2"),
        ({"coordinator": "a:1", "processes": 2, "process": -1}, "process -1 of 2"),
        ({"coordinator": "a:1", "processes": 0, "process": 0}, "process 0 of 0"),
    ],
)
def test_what_does_not_fit_together(given, message):
    with pytest.raises(InputError, match=message) as caught:
        launch.join(**given)
    assert "\n" not in str(caught.value)


def test_joining_too_late(monkeypatch):
    monkeypatch.setattr(launch, "_configure", lambda *_: None)
    jax.devices()
    with pytest.raises(InputError, match="started already"):
        launch.join(coordinator=f"127.0.0.1:{free_port()}", processes=1, process=0)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("UNKNOWN: Gloo all-reduce failed: Connection closed by peer [x]"), True),
        (ValueError("UNKNOWN: Gloo AllGather failed: Read error [x]"), True),
        (RuntimeError("NCCL operation failed: remote process exited"), True),
        (RuntimeError("RESOURCE_EXHAUSTED: in NCCL, out of memory"), False),
        (ValueError("shapes do not fit"), False),
        (TypeError("Gloo"), False),
    ],
)
def test_errors_that_mean_a_loss(error, lost):
    assert (launch._reason(error) is not None) == lost
    wrapped = KeyError("saving failed")
    wrapped.__cause__ = error
    assert (launch._reason(wrapped) is not None) == lost


@pytest.mark.usefixtures("unchecked")
def test_who_cannot_reach_the_others_says_why(monkeypatch):
    monkeypatch.setattr(launch, "_configure", lambda *_: None)
    absent = f"127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match="was not reached within 1 s"):
        launch.join(coordinator=absent, processes=2, process=1, patience=1)
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"cannot listen at port {port}"):
            launch.join(coordinator=f"127.0.0.1:{port}", processes=2, process=0)


def test_who_cannot_join_says_why_in_one_line_and_in_time():
    alone = {"coordinator": f"127.0.0.1:{free_port()}", "processes": 2, "process": 0, "patience": 1}
    cases = {"no cluster was found": {}, "did not all come in time": alone}
    began = time.monotonic()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [
        subprocess.Popen([sys.executable, "-c", TOGETHER, repr(given)], cwd=ROOT, **pipes)
        for given in cases.values()
    ]
    try:
        for message, process in zip(cases, started, strict=True):
            out, err = process.communicate(timeout=90)
            assert (process.returncode, out) == (2, ""), err
            assert err.startswith("p: error: ")
            assert message in err
            assert err.count("\n") == 1
    finally:
        for process in started:
            process.kill()
    assert time.monotonic() - began < 60  # JAX alone would take minutes


def assert_lost(two, codes, victim):
    out, err = two.said(1 - victim)
    assert codes[1 - victim] == 1, err
    assert err.startswith(f"painter: process {victim} of 2 was lost (")
    assert err.endswith("); start again with the same command\n")
    assert err.count("\n") == 1
    assert "Gloo" not in out


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "blow"), [(0, signal.SIGKILL), (1, signal.SIGSTOP)])
def test_a_loss_is_noticed_by_who_waits_for_nothing(tmp_path, victim, blow):
    """Between two collectives, or in one whose other end is mute: JAX aborts the process."""
    with Painters(tmp_path, "idle=60", "heartbeat=4") as two:
        two.wait_for("ready")
        two.processes[victim].send_signal(blow)
        began = time.monotonic()
        survivor = two.processes[1 - victim]
        code = survivor.wait(30)
        assert time.monotonic() - began < 8
        assert_lost(two, {1 - victim: code}, victim)
