"""What a run shows of itself: a picture in a notebook, a line on a terminal, else nothing."""

import base64
import dataclasses
import io
import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from fast import xla_flags
from nst_jax import Config, build_vgg19, layers, stylize
from nst_jax.transfer import progress

FEW = Config(
    min_size=17,
    first_steps=4,
    steps=3,
    content_layers=layers("relu2_1"),
    style_layers=layers("relu1_1"),
)


@pytest.fixture(scope="module")
def network(random_params):
    return build_vgg19(random_params)


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)), np.float32) / 255


def test_a_snapshot_shows_itself(network, photographs):
    content, style = photographs
    (last,) = stylize(content, style, network=network, config=FEW, snapshot_every=None)
    assert np.abs(decoded(last._repr_png_()) - last.image).max() <= 0.5001 / 255
    twice = np.stack([content, content[:, ::-1]])
    (last,) = stylize(twice, style, network=network, config=FEW, snapshot_every=None)
    both = np.concatenate(list(last.image), axis=1)
    assert np.abs(decoded(last._repr_png_()) - both).max() <= 0.5001 / 255


def test_what_is_no_picture_of_three_colors_shows_nothing(network, photographs):
    (last,) = stylize(*photographs, network=network, config=FEW, snapshot_every=None)
    assert dataclasses.replace(last, image=last.image[..., :2])._repr_png_() is None


def test_in_a_notebook_one_place_is_updated(network, photographs, monkeypatch):
    shown = []

    class Handle:
        def update(self, html):
            shown.append(html.data)

    pytest.importorskip("IPython")
    from IPython import display

    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.setattr(display, "display", lambda *_, display_id: Handle())
    run = stylize(*photographs, network=network, config=FEW, snapshot_every=1, progress=True)
    snapshots = list(run)
    assert len(shown) == len(snapshots) == 10
    texts = [re.search("<p>(.*)</p>", html)[1] for html in shown]
    assert texts[0].startswith("step 1 of 10, scale 1 of 3, loss ")
    assert texts[3].endswith("left; preparing the next scale")
    assert re.fullmatch(r"step 10 of 10, scale 3 of 3, loss [\d.e+-]+, 0:00 left", texts[-1])
    png = base64.b64decode(re.search(r"base64,([^\"]+)", shown[-1])[1])
    assert np.abs(decoded(png) - snapshots[-1].image).max() <= 0.5001 / 255


_SCRIPT = """
import numpy as np
from flax import nnx
from nst_jax import VGG19, Config, layers, stylize
few = layers("relu1_1")
config = Config(min_size=0, steps=3, content_layers=few, style_layers=few)
network = VGG19(rngs=nnx.Rngs(0), deepest="relu1_1")
image = np.random.default_rng(0).uniform(size=(16, 16, 3)).astype(np.float32)
list(stylize(image, image[::-1], network=network, config=config, snapshot_every=1, progress=True))
"""


def test_a_terminal_has_a_line_and_a_pipe_nothing():
    command = [sys.executable, "-c", _SCRIPT]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120", "XLA_FLAGS": xla_flags()}
    piped = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert (piped.stdout, piped.stderr) == ("", "")
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment) as run:
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 4096):
                written += part
        except OSError:  # the other end is closed
            pass
        assert run.stdout.read() == b""
    os.close(ours)
    assert run.returncode == 0
    assert b"compiling" in written


def test_the_loop_may_be_left(network, photographs):
    run = stylize(*photographs, network=network, config=FEW, snapshot_every=1, progress=True)
    assert next(run).step == 1
    run.close()
    assert list(run) == []
