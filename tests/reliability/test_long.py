"""Thousands of pictures in one process, and one very large picture."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from fast import xla_flags
from nst_jax import Config, estimate_memory, layers, save_image
from nst_jax.io.images import image_shape
from package import ROOT

SHALLOW = ("--style-layers=relu1_1", "--content-layers=relu1_1", "--weights=untrained", "--quiet")
FRAMES = 3000
LARGE = 10_000, 10_000  # px: 100 megapixels
MIB, GIB = 2**20, 2**30


def start(folder, *flags):
    cache = {"NST_JAX_CACHE": str(folder / "cache"), "XLA_FLAGS": xla_flags()}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *SHALLOW, *flags],
        cwd=folder,
        env=os.environ | cache,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frames", "pictures"])
def test_thousands_of_pictures(tmp_path, photographs, record_property, kind):
    """Memory and open files of a process stay flat over thousands of frames or pictures."""
    content, style = photographs
    (tmp_path / "in").mkdir()
    save_image(tmp_path / "s.png", style)
    for number in range(FRAMES):
        image = np.roll(content, number, axis=1)
        save_image(tmp_path / f"in/{number:04}.png", image)
    flags = ["--content=in", "--style=s.png", "--size=24", "--min-size=0", "--steps=2"]
    flags += ["--output=o"] + (["--sequence"] if kind == "frames" else ["--batch=4"])
    samples = []  # pictures, bytes, open files
    with start(tmp_path, *flags) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            done = len(os.listdir(tmp_path / "o")) if (tmp_path / "o").exists() else 0
            with contextlib.suppress(psutil.Error):  # it may have ended, and then has no memory
                if rss := watched.memory_info().rss:
                    samples.append((done, rss, watched.num_fds()))
            time.sleep(1)
        assert process.returncode == 0, process.stdout.read()
    assert len(os.listdir(tmp_path / "o")) == FRAMES
    record_property("cases", FRAMES)
    record_property("memory", json.dumps([kind, [[n, rss / MIB] for n, rss, _ in samples]]))
    middle = [x for x in samples if 0.4 * FRAMES < x[0] < 0.6 * FRAMES]
    late = [x for x in samples if x[0] > 0.9 * FRAMES]
    grown = np.median([x[1] for x in late]) - np.median([x[1] for x in middle])
    # Malloc's own rounding; a picture that is kept has 7 kB, 12 MB over so many.
    assert grown < 8 * MIB, f"{grown / MIB:.1f} MiB"
    # The files of a picture that is being painted.
    assert max(x[2] for x in late) <= max(x[2] for x in middle) + 2


@pytest.mark.slow
def test_a_large_picture(tmp_path, record_property):
    """100 megapixels in tiles, killed twice and resumed, take no more memory than was forecast."""
    layer = layers("relu1_1")
    config = Config(min_size=0, tile=1024, content_layers=layer, style_layers=layer)
    most = sum(estimate_memory(LARGE, [(512, 512)], config=config))
    if psutil.virtual_memory().available < most + GIB:
        pytest.skip(f"needs {most / GIB + 1:.0f} GiB of memory")
    width, height = LARGE
    gradient = np.linspace(0, 255, width).astype(np.uint8)
    image = np.broadcast_to(gradient[None, :, None], (height, width, 3)).copy()
    image[::50] //= 2
    Image.fromarray(image).save(tmp_path / "c.png", compress_level=1)
    Image.fromarray(image[:500, :500]).save(tmp_path / "s.png")
    flags = ["--content=c.png", "--style=s.png", "--size=original", "--min-size=0", "--steps=3"]
    flags += ["--style-size=512", "--tile=1024", "--output=o.png"]
    flags += ["--checkpoint=k", "--checkpoint-seconds=0"]
    peak, kills = 0, 0
    while True:
        before = steps(tmp_path)
        with start(tmp_path, *flags) as process:
            watched = psutil.Process(process.pid)
            while process.poll() is None:
                with contextlib.suppress(psutil.Error):
                    peak = max(peak, watched.memory_info().rss)
                if steps(tmp_path) > before and kills < 2:  # one more checkpoint
                    process.send_signal(signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.2)
            said = process.communicate()[0]
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
    shutil.rmtree(tmp_path / "k")
    assert kills == 2
    assert image_shape(tmp_path / "o.png") == LARGE[::-1]
    record_property("cases", kills)
    record_property("peak", f"{peak / GIB:.1f} GiB")
    assert peak < most


def steps(folder):
    """Return the newest checkpoint's step, or 0."""
    names = os.listdir(folder / "k") if (folder / "k").exists() else []
    return max([int(name) for name in names if name.isdigit()], default=0)
