"""The examples are what newcomers copy: each runs, small and untrained, with the right numbers."""

import argparse
import base64
import io
import os
import re
import runpy
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from PIL import Image

from fast import xla_flags
from nst_jax import load_image
from nst_jax.weights import sources
from package import PUBLIC, ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.fixture
def run_here(monkeypatch, capsys, tmp_path, untrained):
    """Run a script in this process; return what it printed and the picture that it saved."""

    def run(script, *flags):
        output = tmp_path / "output.png"
        monkeypatch.setattr(sources, "untrained_params", lambda *_: untrained)
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [script, f"--output={output}", *flags])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return printed(capsys.readouterr().out, output), load_image(output)

    return run


@pytest.fixture
def run_apart(tmp_path):
    """The same in a process of its own, for scripts that set up JAX in their own way."""

    def run(script, *flags, devices=1):
        output = tmp_path / "output.png"
        command = [sys.executable, "-W", "error", str(EXAMPLES / script), f"--output={output}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags(devices)}
        done = subprocess.run(
            [*command, *flags], capture_output=True, text=True, cwd=ROOT, env=environment
        )
        assert done.returncode == 0, done.stderr
        return printed(done.stdout, output), load_image(output)

    return run


def printed(out, output):
    """Return what was printed before the last line, which names the picture."""
    text, _, last = out.rstrip("\n").rpartition("\n")
    assert last == f"wrote {output}"
    return text


def numbers(text):
    """Find all numbers of a text that have a decimal point."""
    return [float(x) for x in re.findall(r"-?\d+\.\d*(?:e[-+]?\d+)?", text)]


def content(size, **options):
    return load_image(ROOT / "png/content.png", size=size, **options)


@pytest.mark.parametrize("script", SCRIPTS)
def test_is_short_and_says_how_to_run_it(script):
    text = (EXAMPLES / script).read_text()
    assert len(text.splitlines()) < 80
    assert f"python examples/{script} --" in text.split('"""')[1]
    assert script in (ROOT / "docs/examples.md").read_text()
    assert set(re.findall(r"nst_jax\.(\w+)", text)) <= set(PUBLIC)


@pytest.mark.parametrize("script", SCRIPTS)
def test_writes_into_the_temporary_folder(script, monkeypatch, tmp_path):
    class ParsedError(Exception):
        pass

    def parse(parser):
        raise ParsedError(parser.get_default("output"))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    with pytest.raises(ParsedError) as found:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert str(found.value) == str(tmp_path / script.replace(".py", ".png"))


@pytest.mark.slow
def test_sweep(run_here):
    out, strip = run_here(
        "sweep.py", "--weights=untrained", "--size=32", "--steps=4", "--style-weights", "0.001", "9"
    )
    little, much = (np.array(line.split(), float) for line in out.splitlines()[1:])
    assert (little[0], much[0]) == (0.001, 9)
    assert little[1] < much[1]  # the content loss
    assert little[2] > much[2]  # the style loss
    first, second, third = np.split(strip, 3, axis=1)
    np.testing.assert_allclose(first, content(32), atol=1e-6)
    assert np.abs(first - second).mean() < np.abs(first - third).mean()


def test_texture(run_here):
    out, both = run_here("texture.py", "--weights=untrained", "--size=32", "--steps=3")
    lines = [numbers(line) for line in out.splitlines()]
    assert len(lines) == 4
    assert sum(last for _, last in lines) < 0.7 * sum(first for first, _ in lines)
    style = load_image(ROOT / "png/mosaic.png", size=32, side="shortest")
    assert both.shape == (32, style.shape[1] + 32, 3)
    # Its colors are those of the style, though it starts as noise.
    np.testing.assert_allclose(both[:, -32:].mean((0, 1)), style.mean((0, 1)), atol=0.1)


@pytest.mark.parametrize(
    ("script", "flags"), [("own_optimizer.py", ["--network=vgg16"]), ("own_network.py", [])]
)
def test_bringing_ones_own(run_here, script, flags, package):
    out, picture = run_here(script, *flags, "--size=32", "--steps=5")
    first, last = numbers(out)
    assert last < 0.8 * first
    assert picture.shape == content(32).shape
    assert np.abs(picture - content(32)).mean() > 0.01


@pytest.mark.slow
def test_feedforward(run_here):
    out, both = run_here(
        "feedforward.py",
        "--weights=untrained",
        "--size=32",
        "--steps=6",
        "--content",
        *2 * ["png/content.png"],
    )
    first, last = numbers(out)
    assert last < first
    before, after = np.split(both, 2, axis=1)
    np.testing.assert_allclose(before, content(64, side="shortest"), atol=1e-6)
    assert np.abs(after - before).mean() > 0.01


@pytest.mark.slow
def test_layer_weights(run_apart, untrained_file):
    out, pictures = run_apart(
        "layer_weights.py",
        f"--weights={untrained_file}",
        "--size=16",
        "--steps=2",
        "--outer-steps=3",
    )
    (gradient, difference), *lines = (numbers(line) for line in out.splitlines())
    losses, *shares = np.array(lines).T
    np.testing.assert_allclose(gradient, difference, rtol=1e-5)
    assert losses[0] > losses[-1]
    np.testing.assert_allclose([share[0] for share in shares], 1)
    np.testing.assert_allclose(sum(shares), 4, rtol=1e-6)
    assert np.sign(shares[0][1] - 1) == -np.sign(gradient)
    first, _, last = np.split(pictures, 3, axis=1)
    assert np.abs(first - last).mean() > 0


@pytest.mark.slow
def test_mesh(run_apart, untrained_file):
    out, picture = run_apart(
        "mesh.py",
        f"--weights={untrained_file}",
        "--size=64",
        "--steps=2",
        devices=4,
    )
    assert out.startswith("4 devices: ")
    permutes, reductions = (int(n) for n in re.findall(r": (\d+)[,}]", out))
    assert permutes > 10
    assert reductions >= 1
    *_, of_loss, of_picture = numbers(out)
    # Adam's first steps make as much of gradients that are near zero as of others.
    assert of_loss < 1e-4
    assert of_picture < 1e-2
    assert np.abs(picture - content(None, shape=(64, 64))).mean() > 0.005


@pytest.mark.slow
def test_notebook(monkeypatch, untrained_file):
    nbformat, nbclient = map(pytest.importorskip, ("nbformat", "nbclient"))
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("XLA_FLAGS", xla_flags())
    monkeypatch.setenv("NST_JAX_CACHE", str(untrained_file.parent))
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    for cell in notebook.cells:  # most of the time goes to pixels
        cell.source = cell.source.replace("size=96", "size=48")
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(EXAMPLES)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    pictures = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert "(36, 48, 3) float32" in text
    losses = [float(loss) for _, loss in re.findall(r"^(\d+) ([\d.]+)$", text, re.M)]
    assert len(losses) >= 3
    assert losses[-1] < 0.5 * losses[0]
    heights = [Image.open(io.BytesIO(base64.b64decode(x))).height for x in pictures]
    assert heights == [192, 192, 36]  # the last one is a snapshot
    forms = [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert "step 60 of 60" in forms[-1]
    assert 'src="data:image/png;base64,' in forms[-1]
