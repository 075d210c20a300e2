"""Output that is lost, or that cannot be encoded, ends no job."""

import errno
import io
import os
import subprocess
import sys

import pytest

from fast import xla_flags
from nst_jax import load_image, save_image
from nst_jax.cli.flags import exit_code
from nst_jax.cli.output import lasting_output, make_console
from package import ROOT


class Full(io.StringIO):
    """A stream to a disk with room for one text."""

    encoding = "ascii"

    def write(self, text):
        if self.getvalue():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


def test_a_job_goes_on_where_its_output_is_lost(monkeypatch, capsys):
    done = []

    def job():
        for number in range(3):
            print(number, end="", flush=True)
            done.append(number)
        return 0

    monkeypatch.setattr(sys, "stdout", full := Full())
    assert exit_code("program", job) == 141
    assert done == [0, 1, 2]
    assert full.getvalue() == "0"
    assert capsys.readouterr().err == (
        "program: standard output was lost: No space left on device\n"
    )
    assert sys.stdout is full


def test_a_lost_standard_error_is_no_reason_to_fail(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Full())

    def job():
        print("one", file=sys.stderr)
        print("two", file=sys.stderr)
        return 0

    assert exit_code("program", job) == 0


def test_what_the_encoding_lacks_is_escaped(monkeypatch):
    monkeypatch.setattr(sys, "stdout", below := Full())
    with lasting_output() as lost:
        make_console().print("wrote é.png")
        assert lost() is None
    assert below.getvalue() == "wrote \\xe9.png\n"


def test_no_columns_are_no_width(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    make_console().print("a line")
    assert capsys.readouterr().out == "a line\n"


@pytest.fixture
def command(tmp_path, photographs, untrained_file):
    for name, image in zip(("content.png", "style.png"), photographs, strict=True):
        save_image(tmp_path / name, image)
    flags = ["--content=content.png", "--style=style.png", "--size=24", "--min-size=0", "--steps=4"]
    flags += ["--style-layers=relu1_1", "--content-layers=relu1_1", "--output=o.png"]
    return [sys.executable, "-m", "nst_jax", *flags, f"--weights={untrained_file}"]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags()}


def test_a_reader_that_goes_away_loses_no_picture(command, tmp_path):
    """As with `| head -1`: the process itself, through `python -m nst_jax`."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    os.read(reader, 6)
    os.close(reader)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 141
    assert error == "nst-jax: standard output was lost: Broken pipe\n"
    assert load_image(tmp_path / "o.png").shape == (20, 24, 3)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_for_the_log_loses_no_picture(command, tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 141
    assert done.stderr == "nst-jax: standard output was lost: No space left on device\n"
    assert load_image(tmp_path / "o.png").shape == (20, 24, 3)
