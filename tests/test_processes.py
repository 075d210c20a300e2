"""Processes that share a picture: real ones, connected by gloo, and what becomes of them."""

import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from nst_jax import processes
from nst_jax.errors import InputError
from package import ROOT

pytest.importorskip("orbax.checkpoint", reason="not installed: pip install '.[checkpoint]'")

from painter import Painters, free_port

TOGETHER = """
import sys
from nst_jax import processes
sys.exit(processes.together(lambda: 0, program="p", **eval(sys.argv[1])))
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
        processes.join(**given)
    assert "\n" not in str(caught.value)


def test_joining_too_late(monkeypatch):
    monkeypatch.setattr(processes, "_configure", lambda *_: None)
    jax.devices()
    with pytest.raises(InputError, match="started already"):
        processes.join(coordinator=f"127.0.0.1:{free_port()}", processes=1, process=0)


def test_one_process_agrees_with_itself_and_leaves_nobody():
    assert processes.is_first()
    assert processes.agree(True)
    assert not processes.agree(False)
    processes.leave()


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
    assert (processes._reason(error) is not None) == lost
    wrapped = KeyError("saving failed")
    wrapped.__cause__ = error
    assert (processes._reason(wrapped) is not None) == lost


def test_who_cannot_join_says_why_in_one_line_and_in_time():
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = {
            "no cluster was found": {},
            "was not reached within 1 s": {"process": 1},
            "did not all come in time": {"process": 0},
            "cannot listen at port": {"process": 0, "coordinator": f"127.0.0.1:{port}"},
        }
        began = time.monotonic()
        started = []
        for case in cases.values():
            explicit = {"coordinator": f"127.0.0.1:{free_port()}", "processes": 2, "patience": 1}
            command = [sys.executable, "-c", TOGETHER, repr(case and explicit | case)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            started.append(subprocess.Popen(command, cwd=ROOT, **pipes))
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


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The picture of two processes; their folder is refused to another job."""
    folder = tmp_path_factory.mktemp("two")
    with Painters(folder) as two:
        picture = two.picture()
        assert two.said(0) == ["at 0\nsaved 4\nsaved 8\nsaved 12\n", ""]
        assert two.said(1) == ["", ""]
    with Painters(folder, "side=32") as others:
        assert others.end()[0] == [2, 2]
        for number in range(2):
            out, err = others.said(number)
            assert (out, err.count("\n")) == ("", 1)
            assert "belongs to another job: its side is 64, and now 32" in err
    return picture


@pytest.mark.slow
def test_two_processes_paint_what_one_does(uninterrupted, tmp_path):
    with Painters(tmp_path, count=1) as one:
        alone = one.picture()
    start = np.random.default_rng(1).uniform(size=(2, 64, 32, 3)).astype(np.float32)[0]
    assert np.abs(alone - start).max() > 1e-3  # it is painted
    np.testing.assert_allclose(uninterrupted, alone, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_the_run_goes_on(uninterrupted, tmp_path, victim):
    with Painters(tmp_path, "pause=0.1") as two:
        two.wait_for("saved 4")
        two.processes[victim].kill()
        codes, seconds = two.end(30)
        assert codes[victim] == -signal.SIGKILL
        assert_lost(two, codes, victim)
        assert seconds < 4  # it was noticed at once, not by the heartbeat
    with Painters(tmp_path) as again:
        picture = again.picture()
        assert again.said(0)[0].startswith(("at 4\n", "at 8\n"))
    np.testing.assert_array_equal(picture, uninterrupted)


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
        two.wait_for("idle")
        two.processes[victim].send_signal(blow)
        began = time.monotonic()
        survivor = two.processes[1 - victim]
        code = survivor.wait(30)
        assert time.monotonic() - began < 8
        assert_lost(two, {1 - victim: code}, victim)


@pytest.mark.slow
def test_a_stop_is_agreed_on(uninterrupted, tmp_path):
    with Painters(tmp_path, "pause=0.1", "every=100") as two:
        two.wait_for("at 0")
        two.processes[1].terminate()
        codes, _ = two.end()
        assert codes == [143, 143], [two.said(0), two.said(1)]
        assert two.said(0)[0].count("saved") == 1
    # On one device instead of two, the rest is the same up to rounding.
    with Painters(tmp_path, count=1) as one:
        picture = one.picture()
        assert not one.said(0)[0].startswith("at 0")
    np.testing.assert_allclose(picture, uninterrupted, rtol=0, atol=1e-6)
