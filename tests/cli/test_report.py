"""The page about a run."""

import base64
import functools
import io
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import commands
from nst_jax import load_image
from nst_jax.cli import main as cli
from nst_jax.cli.manifest import read_manifest

run = functools.partial(commands.run, cli.main)


@pytest.fixture
def job(two_scales):
    """A job whose content image has a name that is no text of HTML."""
    os.rename("c.png", "<b>&c.png")
    return ["--content=<b>&c.png", *two_scales[1:]]


class Page(HTMLParser):
    """What a browser would load and show."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.words, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [x for name, x in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.words.append(data.strip())


def test_the_page_has_it_all_and_loads_nothing(job):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    assert run([*job, "--report=r.html", "--start-image=s.png"]) == 0
    page = Page(Path("r.html").read_text())
    outside = [x for x in page.addresses if not x.startswith(("data:image/jpeg;base64,", "#"))]
    assert not outside
    assert not {"script", "link", "iframe", "b"} & set(page.tags)
    data = [x.partition(",")[2] for x in page.addresses if x.startswith("data:")]
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(x)))) / 255 for x in data]
    assert len(shown) == 4  # result, content, style, first picture
    assert np.abs(shown[0] - load_image("stylized.png")).mean() < 0.05
    assert np.abs(shown[1] - load_image("<b>&c.png")).mean() < 0.05
    words = "\n".join(page.words)
    made_from = read_manifest(Path("stylized.png"))["made from"]
    for text in (
        *("<b>&c × s × s", "17x14", "24x20", "VGG-19, untrained, seed 0", "cpu", "devices"),
        *(made_from["weights"], *made_from["style image"], "scale-factor = 1.414213562373"),
    ):
        assert text in words, text
    rows = re.findall(r"<tr><td>(\S+)</td><td>(\d+)</td>", Path("r.html").read_text())
    assert rows == [("17x14", "3"), ("24x20", "4")]
    assert page.tags.count("svg") == 1
    assert os.getcwd() not in Path("r.html").read_text()


@pytest.mark.parametrize(
    ("flag", "missing", "said"),
    [
        ("--report=r.txt", "", "--report is 'r.txt'; its name must end in .html or .htm"),
        ("--report=no/r.html", "", "cannot write the report 'no/r.html': create the folder"),
        ("--report=r.html", "jinja2", "--report needs jinja2, which is missing: pip install"),
        ("--report=r.html", "matplotlib.figure", "--report needs matplotlib.figure, which is"),
    ],
)
def test_mistakes_are_one_line(job, capfd, monkeypatch, flag, missing, said):
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    assert run([*job, flag]) == 2
    error = capfd.readouterr().err
    assert error.startswith(f"nst-jax: error: {said}")
    assert error.count("\n") == 1
    assert not os.path.exists("stylized.png")


def test_a_page_that_cannot_be_written_costs_no_picture(job, capfd, monkeypatch):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    from nst_jax.cli import report

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "atomic_write", full)
    assert run([*job, "--report=r.html"]) == 1
    assert "cannot write the report r.html: No space left" in capfd.readouterr().err
    assert load_image("stylized.png").shape == (20, 24, 3)
