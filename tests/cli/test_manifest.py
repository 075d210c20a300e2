"""Pictures that remember how they were made, and are made again by what they remember."""

import functools
import getpass
import json
import os
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest

import commands
from nst_jax import Config, load_image, save_image
from nst_jax.cli import main as cli
from nst_jax.cli.manifest import read_manifest
from nst_jax.cli.settings_file import settings_flag
from nst_jax.io.extras import Extras
from nst_jax.io.images import image_note
from nst_jax.weights import sources

SHALLOW = ["--style-layers=relu1_1:3,relu2_1", "--content-layers=relu2_1"]  # they compile fast
run = functools.partial(commands.run, cli.main)


@pytest.fixture
def job(tmp_path, monkeypatch, photographs, untrained):
    """A fast job of two scales, three styles with shares, and a first picture."""
    monkeypatch.chdir(tmp_path)
    other = untrained | {"conv1_1.bias": untrained["conv1_1.bias"] + 1}
    monkeypatch.setattr(sources, "untrained_params", lambda seed, _: other if seed else untrained)
    Path("in").mkdir()
    content, style = photographs
    for name, image in {"c": content, "s": style, "t": style[::-1], "first": content[::-1]}.items():
        alpha = np.arange(image[..., 0].size).astype(np.uint8).reshape(image.shape[:2])
        save_image(f"in/{name}.png", image, extras=Extras(alpha=alpha))
    flags = ["--content=in/c.png", "--style", "in/s.png", "in/t.png", "--style-blend=2,1"]
    flags += ["--start-image=in/first.png", "--size=24", "--min-size=17", "--first-steps=3"]
    return [*flags, "--steps=4", "--preset=crowson", "--weights=untrained", *SHALLOW]


def test_a_picture_says_how_it_was_made(job, capfd):
    assert run([*job, "--quiet"]) == 0
    capfd.readouterr()
    assert run(["--show=stylized.png"]) == 0
    shown = capfd.readouterr().out
    note = image_note("stylized.png")
    for secret in (os.getcwd(), getpass.getuser() + "/", "c.png", "s.png"):
        assert secret not in note
    told = tomllib.loads(shown)
    assert (told["preset"], told["steps"], told["first-steps"]) == ("crowson", 4, 3)
    assert told["style-layers"] == {"relu1_1": 3.0, "relu2_1": 1.0}
    assert told["scale-factor"] == 2**0.5  # all digits
    manifest = read_manifest(Path("stylized.png"))
    assert (manifest["step"], manifest["device"], manifest["batch"]) == (7, "cpu", 0)
    assert manifest["chosen"]["precision"] == "float32"
    assert set(manifest["losses"]["style_terms"]) == {"relu1_1", "relu2_1"}
    assert manifest["made from"]["precision"] == "auto"
    for digest in manifest["made from"]["style image"]:
        assert digest in shown
    # What is shown is a file for --config.
    Path("recipe.toml").write_text(shown)
    found = settings_flag("recipe.toml")
    assert found.preset == "crowson"
    assert Config(**found.settings).steps == 4


@pytest.mark.parametrize(
    ("suffix", "form"),
    [
        ("png", []),
        ("jpg", ["--quality=80"]),
        ("webp", ["--background=red", "--profile=input"]),
        ("tif", ["--bits=16"]),
        ("avif", ["--no-metadata"]),
    ],
)
def test_a_replay_gives_the_same_bytes(job, capfd, suffix, form):
    assert run([*job, *form, f"--output=a.{suffix}", "--quiet"]) == 0
    # Files have other names and places, among files of other content.
    Path("elsewhere").mkdir()
    for number, name in enumerate(os.listdir("in")):
        shutil.move(f"in/{name}", f"elsewhere/{number}.png")
    save_image("elsewhere/0other.png", np.zeros((5, 4, 3), np.float32))
    again = ["--inputs", "elsewhere", "--weights=untrained"]
    assert run([f"--replay=a.{suffix}", *again]) == 0
    assert f"replay   the same bytes as a.{suffix}\n" in capfd.readouterr().out
    assert Path(f"a_replay.{suffix}").read_bytes() == Path(f"a.{suffix}").read_bytes()


def test_a_size_that_is_no_number_is_replayed_and_dried(job, capfd):
    content = load_image("in/c.png")
    flags = [flag for flag in job if not flag.startswith("--size")]
    assert run([*flags, "--size=24x18", "--quiet"]) == 0
    shape = load_image("stylized.png").shape
    assert shape == load_image("in/c.png", size="24x18").shape
    assert (max(shape[0] / 18, shape[1] / 24), shape[0] < content.shape[0]) == (1, True)
    assert run(["--replay=stylized.png", "--inputs=in", "--weights=untrained"]) == 0
    assert "the same bytes as stylized.png\n" in capfd.readouterr().out
    assert read_manifest(Path("stylized.png"))["made from"]["size"] == "24x18"
    assert run([*flags, "--size=original", "--dry-run"]) == 0
    assert f", {content.shape[1]}x{content.shape[0]} px\n" in capfd.readouterr().out


def test_a_replay_ends_where_the_picture_was_stopped(job, capfd):
    assert run([*job, "--save-every=5", "--output=a.png", "--quiet"]) == 0
    assert run(["--replay=a_5.png", "--inputs=in", "--weights=untrained"]) == 0
    printed = capfd.readouterr()
    assert "after 5 steps" in printed.out
    assert "the same bytes as a_5.png" in printed.out
    assert "stopped" not in printed.err


def test_the_manifest_beside_the_picture_or_nowhere(job, capfd):
    assert run([*job, "--no-manifest", "--json", "--output=a.jpg", "--quiet"]) == 0
    beside = json.loads(Path("a.jpg.json").read_text())
    assert beside["preset"] == "crowson"
    assert image_note("a.jpg") == ""
    assert run(["--replay=a.jpg.json", "--inputs=in", "--weights=untrained", "--quiet"]) == 0
    np.testing.assert_array_equal(load_image("a_replay.jpg"), load_image("a.jpg"))
    assert run(["--show=a.jpg"]) == 2
    assert "a.jpg has no manifest; only pictures" in capfd.readouterr().err


def test_a_picture_of_a_batch_is_replayed_alone(job, capfd):
    flags = [flag for flag in job if "start-image" not in flag]
    flags[0] = "--content"
    flags.insert(1, "in/first.png")
    flags.insert(1, "in/c.png")
    assert run([*flags, "--batch=2", "--output=out", "--quiet"]) == 0
    assert read_manifest(Path("out/c.png"))["batch"] == 2
    assert run(["--replay=out/c.png", "--inputs=in", "--weights=untrained"]) == 0
    before, now = load_image("out/c.png"), load_image("c_replay.png")
    np.testing.assert_allclose(now, before, atol=1.5 / 255)  # one level, by rounding
    assert "replay   " in capfd.readouterr().out


def test_mistakes_are_one_line(job, capfd):
    assert run([*job, "--quiet"]) == 0
    replay = ["--replay=stylized.png", "--inputs=in"]
    untrained = "--weights=untrained"
    Path("empty.json").write_text("[]")
    cases = [
        (["--show=in/c.png"], "in/c.png has no manifest"),
        (["--show=no.png"], "cannot load 'no.png': No such file"),
        (["--show=no.json"], "cannot read the manifest of no.json"),
        (["--show=empty.json"], "empty.json has no manifest"),
        ([*replay, "--steps=9"], "--replay takes --steps from the picture; leave it out, or paint"),
        ([*replay, "--content=in/c.png"], "--replay takes --content from the picture"),
        ([*replay, untrained, "--output=stylized.png"], "--output stylized.png is the input image"),
        (["--replay=stylized.png", "--inputs=in/s.png", untrained], "the content image of"),
        (["--replay=stylized.png", untrained], "none of the 1 files that were looked at"),
        ([*replay, "--weights=untrained:5"], "painted with other weights than VGG-19"),
    ]
    for flags, said in cases:
        capfd.readouterr()
        assert run(flags) == 2, flags
        error = capfd.readouterr().err
        assert error.startswith("nst-jax: error: ")
        assert said in error
        assert error.count("\n") == 1


@pytest.fixture
def altered():
    """Return a function that alters the manifest of a picture, and writes it as JSON."""

    def alter(*path_and_value):
        *names, last, value = path_and_value
        manifest = json.loads(image_note("stylized.png"))
        inner = functools.reduce(lambda table, name: table[name], names, manifest)
        inner[last] = value
        Path("altered.json").write_text(json.dumps(manifest))
        return "altered.json"

    return alter


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_manifest_may_be_written_by_anyone(job, altered, capfd):
    """Any change gives a replay, or one line; nothing of it reaches the terminal or the recipe."""
    assert run([*job, "--quiet"]) == 0
    made_from = "made from"
    for change in (
        (made_from, "size", None),
        (made_from, "steps", "many"),
        (made_from, "style_layers", {"relu1_1": {}}),
        (made_from, "style_layers", {"relu9_9": 1}),
        (made_from, "style_blend", [[1]]),
        (made_from, "sequence", True),
        (made_from, "content image", []),
        (made_from, "content image", ["\x1b[31m"]),
        (made_from, "content image", "x"),
        (made_from, "weights", None),
        (made_from, "bits", [16]),
        (made_from, "bits", 8.0),
        (made_from, "quality", "x\x1b[31m"),
        (made_from, "background", 5),
        (made_from, "profile", {}),
        ("losses", {"a": {"b": [1]}}),
        ("losses", {"total": "nan", "x": {"y": {"z": 1}}}),
        ("device", "cpu\nsteps = 1\x1b[31m"),
        ("devices", 0),
        ("devices", -1),
        ("devices", 10**9),
        ("step", -5),
        ("step", 0),
        ("step", 10**9),
        ("chosen", {"precision": "float99"}),
        ("chosen", {"conv": [], "remat": 3}),
        ("versions", {"jax": None}),
        ("versions", {"jax\x1b[31m": "1"}),
        ("preset", "absent"),
        ("preset", []),
    ):
        path = altered(*change)
        capfd.readouterr()
        for flags in (["--show", path], ["--replay", path, "--inputs=in", "--weights=untrained"]):
            code = run([*flags, "--dry-run", "--output=o.png"])
            printed = capfd.readouterr()
            assert code in (0, 2), (change, printed.err)
            assert (code == 2) == ("nst-jax: error: " in printed.err), change
            assert "\x1b" not in printed.out + printed.err, change
            assert printed.err.count("\n") <= 1, change
            if code == 0 and flags[0] == "--show":
                assert tomllib.loads(printed.out)["steps"] == 4, change
    Path("altered.json").write_text("[" * 100_000)
    assert run(["--show=altered.json"]) == 2
