"""A run that was left goes on from its checkpoints, and ends with the bytes of a run in one go."""

import dataclasses
import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest

from fast import xla_flags
from nst_jax import Config, build_vgg19, layers, stylize
from package import TESTS_PATH

pytest.importorskip("orbax.checkpoint", reason="not installed: pip install '.[checkpoint]'")

SHALLOW = Config(
    style_layers=layers("relu1_1", "relu2_1"),
    content_layers=layers("relu2_1"),
    min_size=20,
    first_steps=5,
    steps=6,
)
CASES = {
    "adam": {},
    "best": {"picture": "best", "clamp": False},
    "noise": {"start": "noise", "optimizer": "lbfgs-torch", "memory_size": 3},
    "lbfgs": {"optimizer": "lbfgs", "memory_size": 3, "picture": "last"},
    "tiles": {"tile": 16, "conv": "direct"},
    "tiles with lbfgs-torch": {"tile": 16, "optimizer": "lbfgs-torch", "memory_size": 3},
    "keep": {"color": "keep", "start": "style"},
    "stop": {"stop_change": 0.5, "first_steps": 30, "steps": 20, "average_decay": 0.9},
}
QUICK = ("adam", "tiles with lbfgs-torch")


def left_and_resumed(folder, images, stops, **given):
    """Return the last picture of a run that is left at each of some steps."""
    for stop in stops:
        run = stylize(*images, snapshot_every=1, checkpoints=folder, **given)
        next((s for s in run if s.step >= stop), None)
        run.close()
    # At another pace, which makes no difference.
    *_, last = stylize(*images, snapshot_every=4, checkpoints=folder, **given)
    return np.asarray(last.image)


def in_one_go(images, **given):
    *_, last = stylize(*images, snapshot_every=None, **given)
    return np.asarray(last.image)


@pytest.mark.parametrize(
    "case",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_in_one_process(case, random_params, photographs, tmp_path, record_property):
    """A run that is left after any step, and again, ends with the bytes of one that is not."""
    config = dataclasses.replace(SHALLOW, **CASES[case])
    given = {"network": build_vgg19(random_params), "config": config}
    rng, tries = random.Random(case), 1 if case in QUICK else 5
    whole = in_one_go(photographs, **given)
    for number in range(tries):
        stops = sorted(rng.sample(range(1, 30), 2))
        found = left_and_resumed(tmp_path / str(number), photographs, stops, **given)
        np.testing.assert_array_equal(found, whole, err_msg=str(stops))
    record_property("cases", tries)


@pytest.mark.slow
def test_a_scale_that_ends_early(random_params, photographs, tmp_path, record_property):
    """A run that is left shortly before L-BFGS finds no more ends where one that is not does."""
    config = dataclasses.replace(
        SHALLOW,
        optimizer="lbfgs-torch",
        memory_size=5,
        start="noise",
        content_layers=layers("relu1_1"),
        **{"style_weight": 0.0, "tv_weight": 0.0, "min_size": 0, "steps": 400},
    )
    given = {"network": build_vgg19(random_params), "config": config}
    *_, before, last = stylize(*photographs, snapshot_every=1, **given)
    assert last.step == 400
    assert last.stuck
    assert before.step % 10 == 9
    for ahead in (2, 4):
        stops = [before.step - ahead]
        found = left_and_resumed(tmp_path / str(ahead), photographs, stops, **given)
        np.testing.assert_array_equal(found, last.image)
    record_property("cases", 2)


@pytest.mark.slow
def test_a_batch(random_params, photographs, tmp_path, record_property):
    """A batch of pictures that is left after any step ends with the bytes of one that is not."""
    content, style = photographs
    images = np.stack([content, content[::-1], content[:, ::-1]]), style
    given = {"network": build_vgg19(random_params), "config": SHALLOW}
    found = left_and_resumed(tmp_path / "run", images, [2, 9], **given)
    np.testing.assert_array_equal(found, in_one_go(images, **given))
    record_property("cases", 1)


@pytest.mark.slow
def test_many_devices(tmp_path, record_property):
    """A run over four devices that is left after any step ends with the same bytes."""
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env={
            **os.environ,
            "PYTHONPATH": TESTS_PATH,
            "XLA_FLAGS": xla_flags(devices=4),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["devices"] == 4
    assert found["same"] == [True] * 6
    record_property("cases", len(found["same"]))


def _on_many_devices(folder):
    """Print how runs over all devices ended that were left, for `test_many_devices`."""
    import jax

    from conftest import draw_params

    rng, same = np.random.default_rng(0), []
    network = build_vgg19(draw_params("vgg19"))
    tall, style = (
        rng.uniform(size=shape).astype(np.float32) for shape in ((150, 24, 3), (60, 50, 3))
    )
    many = rng.uniform(size=(4, 40, 32, 3)).astype(np.float32)
    for number, (content, changes) in enumerate(
        [(tall, {}), (tall, {"optimizer": "lbfgs-torch", "memory_size": 3}), (many, {})]
    ):
        config = dataclasses.replace(SHALLOW, conv="direct", min_size=100, **changes)
        given = {"network": network, "config": config, "devices": "all"}
        whole = in_one_go((content, style), **given)
        for stops in ([3], [8, 9]):
            name = f"{folder}/{number}-{stops[0]}"
            found = left_and_resumed(name, (content, style), stops, **given)
            same.append(bool(np.array_equal(found, whole)))
    print(json.dumps({"devices": jax.device_count(), "same": same}))


if __name__ == "__main__":
    _on_many_devices(sys.argv[1])
