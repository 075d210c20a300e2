"""Damaged and hostile image files; hostile_images.py makes and reads them."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hostile_images
from commands import outcome
from nst_jax import save_image
from nst_jax.cli.main import main
from nst_jax.errors import InputError
from nst_jax.io.formats import readable_suffixes
from nst_jax.io.images import load_image
from package import TESTS_PATH

MOST_SECONDS = 60.0  # for one file, which is read four times; the slowest took 12
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def whole():
    return hostile_images.samples()


def read_all(folder, cases):
    """Read the files in a process of their own, and check what holds for each of them."""
    folder.mkdir()
    for name, data in cases.items():
        (folder / name).write_bytes(data)
    program = [sys.executable, hostile_images.__file__, str(folder)]
    environment = {**os.environ, "PYTHONPATH": TESTS_PATH}
    found, begun, log = {}, None, folder.with_suffix(".log")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            program, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        for line in process.stdout:
            about = json.loads(line)
            if "begins" in about:  # the clock of this file alone
                begun = about["begins"]
                watch = threading.Timer(MOST_SECONDS, process.kill)
                watch.start()
            else:
                watch.cancel()
                found[about["name"]] = about
        watch.cancel()
    assert process.returncode == 0, f"{begun} ended the process: {log.read_text()[-2000:]}"
    for name in cases:
        check(name, found[name])
    return found


def check(name, found):
    assert found["seconds"] < MOST_SECONDS, name
    assert found["peak"] < hostile_images.MOST_MEMORY, (name, found)
    if "said" in found:
        assert "\n" not in found["said"], name
        assert name in found["said"]
    else:
        assert found["right"], (name, found)


def draw(whole, count, seed):
    rng = np.random.default_rng(seed)
    cases = [hostile_images.damaged(whole, rng) for _ in range(count)]
    return {f"{number:04}-{name}": data for number, (name, data) in enumerate(cases)}


@slow
def test_whole_files_are_read(tmp_path, whole, record_property):
    """An undamaged image file is read, of every format and kind that is damaged below."""
    found = read_all(tmp_path / "files", whole)
    refused = {name for name, about in found.items() if "said" in about}
    assert refused <= {"eps"}
    assert len(whole) > 50
    record_property("cases", len(whole))


@pytest.mark.parametrize(("count", "seed"), [(30, 0), pytest.param(1500, 1, marks=slow)])
def test_damaged_images(tmp_path, whole, record_property, count, seed):
    """A damaged image file is read, or one line says why not, within 60 s and 4 GiB of memory."""
    found = read_all(tmp_path / "files", draw(whole, count, seed))
    read = sum("shape" in about for about in found.values())
    assert 0.1 < read / count < 0.9  # damage that never, or always, shows would test nothing
    record_property("cases", count)


QUICK = ("beyond", "loop", "lies", "lying", "count", "depth", "most", "entities", "line")


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=slow)])
def test_bombs(tmp_path, record_property, full):
    """A small file that asks for much memory or time gets 60 s and 4 GiB of memory at most."""
    bombs = hostile_images.bombs()
    wanted = {name for name in bombs if any(word in name for word in QUICK)}
    cases = {name: bombs[name]() for name in bombs if (name in wanted) != full}
    found = read_all(tmp_path / "files", cases)
    if not full:
        assert "px" in found["png-line"]["said"]
    record_property("cases", len(cases))


def everything(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(("count", "seed"), [(20, 2), pytest.param(200, 3, marks=slow)])
def test_the_command(tmp_path, monkeypatch, capfd, whole, record_property, count, seed):
    """The command ends in a picture, or in one line with exit code 2, and writes nothing else."""
    monkeypatch.chdir(tmp_path)
    save_image("style.png", np.random.default_rng(0).random((24, 32, 3), np.float32))
    Path("out").mkdir()
    rng = np.random.default_rng(seed)
    for name, data in draw(whole, count, seed).items():
        Path("image").write_bytes(data)
        role = str(rng.choice(["content", "style"]))
        others = {"content": "style.png", "style": "style.png"} | {role: "image"}
        flags = [f"--{role}={path}" for role, path in others.items()]
        before = everything(tmp_path)
        code = outcome(
            main, [*flags, "--color=style-only", "--size=32", "--output=out/picture.png"], capfd
        )
        made = everything(tmp_path) - before
        assert made <= ({"out/picture.png"} if code == 0 else set()), name
        if code == 0:
            with Image.open("out/picture.png") as picture:
                assert max(picture.size) == 32
            Path("out/picture.png").unlink()
    record_property("cases", count)


def test_postscript_is_not_run(tmp_path, monkeypatch, whole, record_property):
    """An EPS file, which is a program, is refused and not run, even where Ghostscript is there."""
    mark = tmp_path / "ran"
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch {mark}\n")
    ghostscript.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(ghostscript.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    cases = [whole["eps"], hostile_images.bombs()["eps-loop"]()]
    for data in cases:
        with pytest.raises(InputError, match="a program in PostScript, which is not run"):
            load_image(data)
    assert not mark.exists()
    assert readable_suffixes([".eps", ".ps", ".png"]) >= {".png"}
    assert not {".eps", ".ps"} & readable_suffixes([".eps", ".ps"])
    record_property("cases", len(cases))
