"""The scripts that judge recipes: a contact sheet, and time to quality. Small and untrained."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import gallery, look, race
from commands import run
from nst_jax import build_vgg19, layers, load_image, preset, save_image
from nst_jax.weights import sources


@pytest.fixture
def images(tmp_path, monkeypatch, photographs, untrained):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "untrained_params", lambda *_: untrained)
    for name, image in zip(("content.png", "style.png"), photographs, strict=True):
        save_image(tmp_path / name, image)
    return ["--content=content.png", "--size=24", "--weights=untrained"]


def test_a_sheet_has_a_row_for_each_pair_and_a_column_for_each_recipe(images, capfd):
    recipes = ["default --min-size=0 --steps=1 --style-layers=relu1_1 --content-layers=relu1_1"]
    flags = ["--style", "style.png", "content.png", "--recipes", *recipes, "--beside=style.png"]
    assert run(gallery.main, [*images, *flags, "--output=s.png", "--json=s.json"]) == 0
    assert capfd.readouterr().out.count(" s\n") == 2
    sheet = load_image("s.png")
    assert sheet.shape == (2 * (24 + 14) + 6, 4 * 24 + 3 * 6, 3)
    found = json.loads(Path("s.json").read_text())["pictures"]
    assert [each["style"] for each in found] == ["style.png", "content.png"]
    content = load_image("content.png", size=24)
    np.testing.assert_allclose(sheet[14 : 14 + content.shape[0], :24], content, atol=1e-6)


@pytest.mark.parametrize("program", [gallery, race])
def test_a_report_that_cannot_be_written_is_known_before_the_work(images, capfd, program):
    assert run(program.main, [*images, "--style=style.png", "--json=none/r.json"]) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_a_recipe_that_is_none_is_one_line(images, capfd):
    assert run(gallery.main, [*images, "--style=style.png", "--recipes=oil"]) == 2
    assert "preset is 'oil'" in capfd.readouterr().err


def test_a_look_is_the_distance_of_features(images, capfd, random_params):
    assert run(look.main, ["content.png", "content.png", "--other=style.png", images[-1]]) == 0
    _, same, other = capfd.readouterr().out.splitlines()
    assert same.split() == ["content.png", *["0.000"] * 7]
    assert all(float(x) > 0.05 for x in other.split()[1:])
    network = build_vgg19(random_params)
    a, b = (load_image("content.png"), load_image("style.png", shape=(37, 45)))
    found = look.distances(network, a, b)
    np.testing.assert_allclose(
        found["pixels"], np.linalg.norm(a - b) / np.linalg.norm(b), rtol=1e-5
    )


class Steps:
    """Snapshots whose losses are given."""

    def __init__(self, losses, shape=(2, 2, 3)):
        self.image = np.zeros(shape)
        self.losses = iter(losses)
        self.step, self.finite = 0, True

    def __iter__(self):
        return self

    def __next__(self):
        self.step += 1
        total = np.array([next(self.losses)])
        snapshot = type("S", (), {"step": self.step, "image": self.image, "finite": True})
        snapshot.losses = type("L", (), {"total": total})
        return snapshot


def test_a_run_rests_while_it_is_ahead_of_adam():
    shape = (2, 2, 3)
    runners = {
        race.ADAM: race.Runner(Steps([9, 8, 7, 6]), shape),
        "fast": race.Runner(Steps([10, 6.5, 3, 1, 0]), shape),
        "stuck": race.Runner(Steps([8.5, 8.5]), shape),
    }
    race.race(runners)
    assert {name: runner.steps for name, runner in runners.items()} == {
        race.ADAM: 4,
        "fast": 3,
        "stuck": 2,
    }
    assert runners["fast"].best == 3
    assert runners["stuck"].best == 8.5


def test_what_is_smaller_has_not_arrived():
    runner = race.Runner(Steps([1.0], shape=(1, 1, 3)), (2, 2, 3))
    runner.advance()
    assert runner.best == np.inf


@pytest.mark.slow
def test_the_race_runs(images, capfd, monkeypatch):
    shallow = {"content_layers": layers("relu2_1"), "style_layers": layers("relu1_1", "relu2_1")}
    monkeypatch.setattr(race, "preset", lambda name: replace(preset(name), **shallow))
    assert run(race.main, [*images, "--style=style.png", "--steps=3", "--json=r.json"]) == 0
    printed = capfd.readouterr().out
    assert [name for name in race.methods(3) if f"\n{name} " in printed] == [*race.methods(3)]
    report = json.loads(Path("r.json").read_text())
    assert report["curves"]["adam"][-1][1] == report["target"]
