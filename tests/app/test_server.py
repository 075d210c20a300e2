"""The page as a program sees it: one process, and Gradio's own client."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import urllib.request

import pytest

from nst_jax import PRESETS, save_image
from nst_jax.app.page import _wishes
from nst_jax.cli.manifest import read_manifest
from nst_jax.geometry import fit
from package import ROOT
from page import environment, serving
from ports import free_port

# In a process of its own, whose warnings are not ours.
_CLIENT = """
    import json, sys
    from gradio_client import Client, handle_file
    client = Client(sys.argv[1], verbose=False, download_files=sys.argv[2])
    painting = {"image": handle_file("style.png"), "caption": None}
    jobs = [
        client.submit(
            handle_file("content.png"), [painting], "", "default", size, 1, "keep", 1, 1, 1,
            api_name="/paint",
        )
        for size in (64, 512)
    ]
    painted, refused = jobs[0].result(timeout=200), jobs[1].exception(timeout=200)
    print(json.dumps([painted, str(refused)], default=str))
"""


@pytest.fixture
def folder(tmp_path, photographs):
    for name, image in zip(("content.png", "style.png"), photographs, strict=True):
        save_image(tmp_path / name, image)
    return tmp_path


def test_the_demo_is_the_same_page(folder):
    script = ROOT / "examples/space/app.py"
    command = [sys.executable, script, "--weights=untrained", f"--port={free_port()}"]
    env = os.environ | environment(folder)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        line = process.stdout.readline()
        assert "painting at http://" in line
        address = line.split()[2].replace("0.0.0.0", "127.0.0.1")
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert b"Paint a photograph" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.slow
def test_it_paints_and_keeps_its_limits_and_leaves_nothing(folder):
    with serving("--weights=untrained", "--max-size=96", folder=folder) as (process, address):
        found = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(_CLIENT), address, str(folder / "got")],
            capture_output=True,
            text=True,
            cwd=folder,
            timeout=240,
        )
        assert found.returncode == 0, found.stderr
        painted, refused = json.loads(found.stdout.splitlines()[-1])
        assert "Done: step 110 of 110" in painted[1]
        assert "THE NETWORK IS NOT TRAINED" in painted[1]
        files = [x["value"] for x in painted if isinstance(x, dict) and "stylized" in str(x)]
        manifest = read_manifest(folder / "got" / files[0])
        assert (manifest["step"], manifest["made from"]["color"]) == (110, "keep")
        assert "Value 512 is greater than maximum value 96" in refused
        port = address.rstrip("/").rpartition(":")[2]
        again = [sys.executable, "-m", "nst_jax", "app", f"--port={port}"]
        taken = subprocess.run(again, capture_output=True, text=True, timeout=120)
        assert taken.returncode == 2
        (line,) = taken.stderr.splitlines()
        assert f"cannot serve the page at 127.0.0.1, port {port}" in line
        left = {path.name for path in folder.iterdir() if path.name.startswith("nst-jax-")}
        assert len(left) == 2, left  # uploads and pictures, while it serves
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not [name for name in os.listdir(folder) if name.startswith("nst-jax-")]
        assert "REACHES OUT" not in process.stderr.read()


@pytest.mark.parametrize("name", PRESETS)
def test_the_size_on_the_page_is_the_longest_side_whatever_the_preset(name):
    wishes = _wishes("c.png", [("s.png", None)], "", name, 96.0, 1.0, "match", 1.0, 1.0, 1.0)
    config = dataclasses.replace(PRESETS[name], **wishes.settings)
    assert config.color == "match"
    assert fit(30, 90, config.size, side=config.side) == (32, 96)
