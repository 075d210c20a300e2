import contextlib
import json
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from commands import run
from nst_jax import InputError, preset
from nst_jax.app.page import Wishes, base_numbers
from nst_jax.cli import app
from nst_jax.cli.app import AppOptions, Studio
from nst_jax.cli.main import main
from nst_jax.cli.manifest import read_manifest

FEW = {"size": 24, "min_size": 17, "first_steps": 3, "steps": 4}
LAYERS = {"style_layers": "relu1_1,relu2_1", "content_layers": "relu2_1"}


@pytest.fixture
def studio(two_scales, tmp_path):
    """A studio in the folder of `two_scales`."""
    (tmp_path / "pictures").mkdir()
    return Studio(AppOptions(weights="untrained"), tmp_path / "pictures")


def wishes(**settings):
    given = FEW | LAYERS | settings
    return Wishes(content="c.png", styles=("s.png",), preset="default", settings=given)


def until(live, condition):
    end = time.monotonic() + 120
    view = live.view
    while not condition(view):
        assert time.monotonic() < end
        assert view.phase != "ended", view.notes
        view = live.wait(view.version, 1.0)
    return view


def ended(live):
    try:
        return until(live, lambda view: view.phase == "ended")
    finally:
        live.stop()


def test_what_is_painted_can_be_replayed_with_what_was_changed(studio, capfd):
    live = studio.start(wishes())
    live.pause(on=True)
    first = until(live, lambda view: view.last)
    assert (first.phase, first.last.step) == ("paused", 1)
    live.steer({"content_weight": 40.0, "learning_rate": 0.01})
    live.pause(on=False)
    view = ended(live)
    assert [row["step"] for row in view.rows] == [1, 2, 3, 4, 5, 6, 7]
    assert "THE NETWORK IS NOT TRAINED" in view.notes[0]
    assert view.content.shape == view.last.image.shape
    changes = read_manifest(view.file)["adjusted"]
    assert changes == [[1, {"content_weight": 40.0, "learning_rate": 0.01}]]
    assert read_manifest(view.file)["made from"]["metadata"] is False

    flags = [f"--replay={view.file}", "--inputs", ".", "--weights=untrained"]
    assert run(main, [*flags, "--output=again.png"]) == 0
    assert f"the same bytes as {view.file}" in capfd.readouterr().out
    assert run(main, [f"--show={view.file}"]) == 0
    shown = capfd.readouterr().out
    assert "# adjusted       from step 1 on content_weight 40, learning_rate 0.01\n" in shown
    # Without the changes it is another picture.
    steered = view.file.read_bytes()
    plain = ended(studio.start(wishes()))
    assert plain.file.read_bytes() != steered
    assert read_manifest(plain.file)["adjusted"] == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([[1, {"tv_weight": 2.0}]], "--tv-weight cannot change on the way"),
        ([[1, {"style_weight": -2.0}]], "--style-weight is -2.0; it must be at least 0"),
        ([[1, {"style_weight": "2"}]], "has no manifest"),
        ([[2, {}], [1, {}]], "has no manifest"),
        ([[-1, {}]], "has no manifest"),
        ({"1": {}}, "has no manifest"),
        ([[1]], "has no manifest"),
    ],
)
def test_changes_in_a_manifest_are_not_trusted(studio, capfd, changes, expected):
    flags = ["--content=c.png", "--style=s.png", "--weights=untrained", "--size=24", "--steps=1"]
    layers = [f"--{name.replace('_', '-')}={text}" for name, text in LAYERS.items()]
    assert run(main, [*flags, *layers, "--min-size=0", "--json", "--output=p.png"]) == 0
    manifest = json.loads(Path("p.png.json").read_text())
    Path("p.json").write_text(json.dumps(manifest | {"adjusted": changes}))
    assert run(main, ["--replay=p.json", "--weights=untrained"]) == 2
    assert expected in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"content": ""}, "give a content image, and at least one style image"),
        ({"styles": ()}, "give a content image, and at least one style image"),
        ({"content": "none.png"}, "none.png"),
        ({"content": "/tmp/secret/none.png"}, "cannot load 'none.png'"),
        ({"settings": FEW | {"style_blend": "1,2"}}, "style-blend"),
        ({"settings": FEW | {"style_blend": "much"}}, "style-blend is 'much'"),
        ({"preset": "none"}, "preset is 'none'"),
    ],
)
def test_mistakes_of_a_visitor_are_notes(studio, change, expected, capfd):
    live = studio.start(Wishes(**vars(wishes()) | change))
    view = ended(live)
    assert not view.file
    assert expected in view.notes[-1]
    assert "Traceback" not in capfd.readouterr().err


def test_a_fault_of_the_program_ends_the_run_and_is_logged(studio, monkeypatch, capfd):
    def fails(*_, **__):
        raise RuntimeError("a secret of the machine")

    monkeypatch.setattr(app, "paint", fails)
    assert ended(studio.start(wishes())).notes == ("the program failed: RuntimeError",)
    assert "a secret of the machine" in capfd.readouterr().err


def test_one_picture_at_a_time(studio, monkeypatch):
    inside, most = [], []

    def paint(options, asked, output, *, live):
        inside.append(live)
        most.append(len(inside))
        time.sleep(0.05)
        inside.remove(live)

    monkeypatch.setattr(app, "paint", paint)
    for live in [studio.start(wishes()) for _ in range(4)]:
        ended(live)
    assert most == [1, 1, 1, 1]


def test_for_a_visitor_who_has_left_nothing_is_painted(studio, monkeypatch):
    painted = []
    monkeypatch.setattr(app, "paint", lambda *_, **__: painted.append(1))
    with studio._lock:
        live = studio.start(wishes())
        live.stop()
    ended(live)
    assert not painted


def test_the_address_of_a_preview_does_not_mix_with_the_picture(studio, monkeypatch, capfd):
    @contextlib.contextmanager
    def serving(make_page, **_):
        yield "http://here"

    monkeypatch.setattr(app, "check_packages", lambda flag: None)
    monkeypatch.setattr(app, "serving", serving)
    layers = [f"--{name.replace('_', '-')}={text}" for name, text in LAYERS.items()]
    flags = ["--content=c.png", "--style=s.png", "--weights=untrained", "--size=24", "--steps=1"]
    flags += [*layers, "--min-size=0", "--preview"]
    assert run(main, [*flags, "--output=p.png"]) == 0
    assert capfd.readouterr().out.startswith("preview  http://here\n")
    assert run(main, [*flags, "--output=p.png", "--quiet"]) == 0
    found = capfd.readouterr()
    assert (found.out, found.err.splitlines()[0]) == ("", "preview  http://here")
    monkeypatch.setattr(app.jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="--preview is for one process"):
        next(app.preview(app.JobOptions(preview=True), preset("default"), Path("p.png")).gen)


def test_closing_stops_what_is_painted(studio):
    live = studio.start(wishes(first_steps=100_000))
    until(live, lambda view: view.last)
    studio.close()
    assert live.view.phase == "ended"
    assert live.view.file.exists()


def test_pictures_are_kept_until_the_next_visitor_comes(studio):
    first = ended(studio.start(wishes())).file
    painted = first.read_bytes()
    second = ended(studio.start(wishes())).file
    assert first != second
    assert second.read_bytes() == painted
    assert [path.name for path in Path("pictures").iterdir()] == [second.parent.name]


def test_the_numbers_of_the_sliders_are_those_of_the_preset():
    assert base_numbers(preset("pytorch")) == {
        "content_weight": 1.0,
        "style_weight": 100.0,
        "learning_rate": 0.003,
    }


def test_the_examples_are_ours():
    found = app.examples()
    assert [example.name for example in found] == ["painting", "mosaic", "ink"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["app", "--port=no"], "argument --port: 'no' is not a whole number of at least 1"),
        (["app", "--sizes=3"], "unrecognized arguments: --sizes=3"),
        (["--content=a", "b", "--style=c", "--preview"], "--preview is for one picture"),
    ],
)
def test_mistakes_of_the_flags(studio, flags, expected, capfd):
    if "--preview" in flags:
        flags = ["--content", "c.png", "s.png", "--style=s.png", "--preview"]
    assert run(main, flags) == 2
    assert expected in capfd.readouterr().err


def test_the_page_needs_an_extra(studio, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run(main, ["app"]) == 2
    expected = "nst-jax app needs gradio, which is missing: pip install '.[app]'"
    assert expected in capfd.readouterr().err
    assert run(main, ["--content=c.png", "--style=s.png", "--preview"]) == 2
    assert "--preview needs gradio, which is missing" in capfd.readouterr().err


def test_the_help_of_the_page_has_its_limits(capfd):
    assert run(main, ["app", "--help"]) == 0
    text = capfd.readouterr().out
    assert {"--host", "--port", "--max-size", "--max-seconds", "--max-waiting"} <= set(
        re.findall(r"--[a-z-]+", text)
    )
    assert np.char.count(text, "default: 127.0.0.1") == 1
