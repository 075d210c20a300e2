"""The log of a run: a row for each step."""

import contextlib
import csv
import functools
import json
import signal
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

import commands
from nst_jax import Losses, Snapshot
from nst_jax.cli import main as cli
from nst_jax.cli import single, step_log

run = functools.partial(commands.run, cli.main)


def snapshots(*counts, scale=1, begin=0):
    """Snapshots of so many steps each; the total before step n is n."""
    for count in counts:
        total = np.arange(begin + 1.0, begin + count + 1)
        begin += count
        parts = OrderedDict(relu1_1=total / 2)
        losses = Losses(total, total, total, parts, parts, OrderedDict(tv=total / 4))
        yield Snapshot(begin, np.zeros((2, 2, 3)), losses, True, scale=scale)


def read(path):
    with open(path, newline="") as file:
        return [json.loads(x) for x in file] if ".jsonl" in path else list(csv.DictReader(file))


@pytest.mark.parametrize("path", ["l.jsonl", "l.CSV"])
def test_every_step_of_a_real_run_has_a_row(two_scales, path):
    assert run([*two_scales, f"--log={path}"]) == 0
    rows = read(path)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6, 7]
    assert [int(row["scale"]) for row in rows] == [1, 1, 1, 2, 2, 2, 2]
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds)
    for row in rows:
        style = float(row["style relu1_1"]) + float(row["style relu2_1"])
        assert float(row["style"]) == pytest.approx(style, rel=1e-5)
        total = 3 * float(row["content"]) + float(row["style"]) + 20 * float(row["tv"])
        assert float(row["total"]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("path", ["l.jsonl", "l.csv"])
def test_a_run_that_goes_on_keeps_the_rows_before(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)

    def log(snapshots):
        file = step_log.LogFile(Path(path), warn=pytest.fail)
        return step_log.with_rows(snapshots, file)

    list(log(snapshots(3, 2)))  # the checkpoint was after step 3
    list(log(snapshots(2, 1, begin=3)))
    assert [float(row["total"]) for row in read(path)] == [1, 2, 3, 4, 5, 6]
    list(log(snapshots(2)))  # another run
    assert [float(row["total"]) for row in read(path)] == [1, 2]
    Path(path).write_text("something else\n")
    list(log(snapshots(2, begin=3)))
    assert [float(row["total"]) for row in read(path)] == [4, 5]


def test_a_log_that_is_lost_does_not_end_the_run(tmp_path):
    warnings, path = [], tmp_path / "l.csv"
    run = step_log.with_rows(snapshots(2, 2, 2), step_log.LogFile(path, warn=warnings.append))
    next(run)
    path.unlink()
    path.mkdir()
    assert [snapshot.step for snapshot in run] == [4, 6]
    assert len(warnings) == 1
    assert "the log" in warnings[0]
    assert "ends at step 2: Is a directory; going on without" in warnings[0]


def test_losses_that_are_not_finite_are_text(tmp_path):
    (snapshot,) = snapshots(1)
    bad = snapshot.losses._replace(total=np.array([np.nan]), style=np.array([np.inf]))
    last = Snapshot(1, snapshot.image, bad, False)
    list(step_log.with_rows([last], step_log.LogFile(tmp_path / "l.jsonl", warn=pytest.fail)))
    (row,) = read(str(tmp_path / "l.jsonl"))
    assert (row["total"], row["style"], row["content"]) == ("nan", "inf", 1.0)


def test_stopped_and_resumed_it_has_each_step_once(two_scales, monkeypatch):
    """A signal stops the run after its first snapshot."""
    flags = [*two_scales, "--log=l.jsonl", "--checkpoint=kept", "--steps=9"]
    with monkeypatch.context() as patch:
        patch.setattr(single, "SECONDS", 0.01)
        stopped = contextlib.nullcontext([signal.SIGTERM])
        patch.setattr(single, "stop_signals", lambda: stopped)
        assert run(flags) == 128 + signal.SIGTERM
    assert 0 < len(read("l.jsonl")) < 12
    assert run(flags) == 0
    assert [row["step"] for row in read("l.jsonl")] == list(range(1, 13))


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--log=l.txt", "--log is 'l.txt'; its name must end in .jsonl or .csv"),
        ("--log=no/l.csv", "cannot write the log 'no/l.csv': create the folder"),
    ],
)
def test_mistakes_are_one_line(two_scales, capfd, flag, said):
    assert run([*two_scales, flag]) == 2
    assert capfd.readouterr().err.startswith(f"nst-jax: error: {said}")
    assert run([*two_scales, "--content", "s.png", "--log=l.csv"]) == 2
    assert "--log is for one picture" in capfd.readouterr().err
