"""Images from pipes and standard input, and a picture to standard output."""

import functools
import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import commands
from nst_jax import InputError, load_image, save_image
from nst_jax.cli import main as cli
from nst_jax.cli.options import JobOptions
from nst_jax.cli.pipes import lasting_inputs, standard_output
from package import ROOT

run = functools.partial(commands.run, cli.main)
IMAGE = np.random.default_rng(0).uniform(size=(20, 24, 3)).astype(np.float32)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """Run in a new folder, which is also the folder of temporary files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    save_image("a.png", IMAGE)


def given(*content, style=("a.png",), start=None):
    return JobOptions(content=[*content], style=[*style], start_image=start)


def standard_input(monkeypatch, data, *, terminal=False):
    stream = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: terminal)
    monkeypatch.setattr(sys, "stdin", stream)


def test_files_stay_as_they_are():
    flags = given("a.png", "missing.png", "null\0byte", start="a.png")
    with lasting_inputs(flags) as same:
        assert same == given("a.png", "missing.png", "null\0byte", start="a.png")
        assert os.listdir() == ["a.png"]


def test_what_is_read_once_is_a_file_meanwhile(monkeypatch):
    data = Path("a.png").read_bytes()
    standard_input(monkeypatch, data)
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_bytes, args=(data,), daemon=True)
    writer.start()
    with lasting_inputs(given("-", "a.png", start="pipe")) as flags:
        copies = [flags.content[0], flags.start_image]
        assert [Path(copy).name for copy in copies] == ["standard-input", "pipe-pipe"]
        for copy in copies:
            assert Path(copy).read_bytes() == data
        assert (flags.content[1], flags.style) == ("a.png", ["a.png"])
    writer.join()
    assert not any(map(os.path.exists, copies))
    assert sorted(os.listdir()) == ["a.png", "pipe"]


@pytest.mark.parametrize(
    ("flags", "terminal", "said"),
    [
        (given("-", "-"), False, "'-' is given twice, but it can be read once; give a file"),
        (given("-", style=["-"]), False, "'-' is given twice"),
        (given("-"), True, "standard input is a terminal; pipe an image into it, or give a file"),
    ],
)
def test_what_cannot_be_read_is_one_line(monkeypatch, flags, terminal, said):
    standard_input(monkeypatch, b"", terminal=terminal)
    with pytest.raises(InputError, match=said), lasting_inputs(flags):
        pass
    assert os.listdir() == ["a.png"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--content", "a.png", "a.png", "--output=-"],
            "--output=- is for one picture;",
        ),
        (["--content=a.png", "--output=-", "--save-every=2"], "--save-every needs a place"),
        (["--content=-", "--output=b.png"], "standard-input': not a readable image (the file is"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capfd, flags, said):
    standard_input(monkeypatch, b"")
    assert run([*flags, "--style=a.png"]) == 2
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert os.listdir() == ["a.png"]


def test_a_picture_for_standard_output_is_lost_in_no_case(monkeypatch):
    with open("full", "wb") as file:
        stream = SimpleNamespace(fileno=file.fileno, isatty=lambda: False)
        monkeypatch.setattr(sys, "stdout", stream)
        with standard_output(".png") as picture:
            save_image(picture, IMAGE)
    assert Path("full").read_bytes() == Path("a.png").read_bytes()
    assert sorted(os.listdir()) == ["a.png", "full"]
    with pytest.raises(KeyError), standard_output(".png") as picture:
        raise KeyError
    assert sorted(os.listdir()) == ["a.png", "full"]
    with open("/dev/full", "wb") as file:
        stream = SimpleNamespace(fileno=file.fileno, isatty=lambda: False)
        monkeypatch.setattr(sys, "stdout", stream)
        said = "No space left on device; the picture is"
        with pytest.raises(OSError, match=said), standard_output(".png") as picture:
            save_image(picture, IMAGE)
    np.testing.assert_array_equal(load_image(picture), load_image("a.png"))
    shutil.rmtree(picture.parent)
    stream.isatty = lambda: True
    with pytest.raises(InputError, match="standard output is a terminal"), standard_output(".png"):
        pass


def test_a_shells_pipes(untrained_file):
    """In a real shell: the picture is the one made from files, and the only output."""
    program = f"{sys.executable} {ROOT / 'main.py'} --weights={untrained_file}"
    program += " --size=24 --min-size=0 --steps=1"
    program += " --style-layers=relu1_1 --content-layers=relu1_1"
    script = f"""
    cat a.png | {program} --content=- --style=<(cat a.png) --output=- > b.png &&
    {program} --content=a.png --style=a.png --output=c.png
    """
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stderr == ""
    assert Path("b.png").read_bytes() == Path("c.png").read_bytes()
