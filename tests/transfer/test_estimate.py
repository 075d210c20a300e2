"""The memory and time that a run needs, beside what it then takes."""

import dataclasses
import os
import re
import subprocess
import sys
from collections import namedtuple

import jax
import pytest
from rich.console import Console

from nst_jax import Config, layers
from nst_jax.cli import console
from nst_jax.devices.backend import resolve
from nst_jax.errors import InputError
from nst_jax.scale import ahead_of_time
from nst_jax.scale.tiled import tiles
from nst_jax.transfer import estimate
from nst_jax.transfer.estimate import Need
from nst_jax.transfer.schedule import make_schedule
from package import TESTS_PATH

SHALLOW = {"content_layers": layers("relu2_1"), "style_layers": layers("relu1_1"), "min_size": 0}


@pytest.fixture(scope="module")
def given():
    return {"config": resolve(Config(**SHALLOW))}


@pytest.fixture(scope="module")
def sizes(given):
    """The need for pictures of one and of four times the pixels."""
    return [estimate.estimate_memory((n, n), [(40, 40)], **given) for n in (64, 128)]


def test_it_grows_with_the_pixels_and_counts_what_is_kept(sizes, given):
    small, large = (each.device for each in sizes)
    pixels = 64**2
    # relu1_1, relu1_2, pool1, relu2_1: 64 + 64 + 16 + 32 floats, and one gradient more.
    assert (large - small) / (3 * pixels) > 4 * (176 + 64)
    assert large < 5 * small
    assert small + sizes[0].host < 2e9


@pytest.fixture
def own_memory(monkeypatch):
    """Devices do not share the host's memory, as simulated ones do."""

    class GPU:
        platform = "gpu"

    monkeypatch.setattr(estimate, "default_device", GPU)


def test_a_share_of_many_devices_is_smaller(sizes, given, own_memory):
    config = Config(**SHALLOW)  # on several devices convolutions are direct
    quarter = estimate.estimate_memory((128, 128), [(40, 40)], devices=4, config=config)
    assert sizes[0].device / 2 < quarter.device < sizes[1].device / 2


def test_a_batch_is_so_many_pictures(sizes, given, own_memory):
    two = estimate.estimate_memory((64, 64), [(40, 40)], batch=2, **given)
    assert 1.2 * sizes[0].device < two.device < 2.2 * sizes[0].device
    config = Config(**SHALLOW)
    shared = estimate.estimate_memory((64, 64), [(40, 40)], batch=2, devices=2, config=config)
    assert shared.device < two.device


def test_tiles_need_the_memory_of_one(sizes, given):
    config = dataclasses.replace(given["config"], tile=16)
    tiled = estimate.estimate_memory((128, 128), [(40, 40)], config=config)
    assert tiled.device < sizes[1].device / 2
    assert tiled.host - sizes[1].host > 12 * 128**2 * 8  # the pictures lie there


@pytest.mark.parametrize("free", [10**9, 3 * 10**9])
def test_the_largest_size_is_one_that_fits_and_not_much_less(free):
    def need_of(size):
        return Need(200 * 10**6 + 2100 * size**2, 300 * 10**6)

    size = estimate.largest(need_of, free=Need(free, free))
    assert estimate.fits(need_of(size), Need(free, free))
    assert not estimate.fits(need_of(int(1.04 * size)), Need(free, free))


def test_no_size_fits():
    assert estimate.largest(lambda size: Need(10**9, 10**9), free=Need(10**6, 10**6)) == 0


def test_a_refusal_names_the_size_and_the_way_out():
    text = estimate.refusal(700, (3000, 4000), Need(25 * 10**9, 10**9), Need(10**10, 10**10))
    assert re.fullmatch(
        r"4000x3000 px need 26.0 GB of memory, but 10.0 GB are free; --size=700 fits, or give "
        r"--tile=1024, which takes less",
        text,
    )
    tiled = estimate.refusal(700, (9, 9), Need(2, 10**9), Need(10**10, 10**8), untiled=False)
    assert tiled.endswith("--size=700 fits")


@pytest.mark.parametrize("tile", [0, 512])
def test_a_picture_that_does_not_fit_is_told_the_largest_size_that_does(monkeypatch, tile):
    def need(plan, **_):
        return Need(1000 * min(plan.shape[0], tile or 10**9) ** 2, 100 * plan.shape[0] ** 2)

    monkeypatch.setattr(estimate, "need", need)
    monkeypatch.setattr(estimate, "free_memory", lambda: Need(2 * 10**9, 2 * 10**9))
    config = resolve(Config(**SHALLOW, size=20_000, tile=tile))

    def schedule_of(size):
        return make_schedule((size, size), [(40, 40)], dataclasses.replace(config, size=size))

    with pytest.raises(InputError) as caught:
        estimate.fit_to_memory(schedule_of, config=config, may_remat=False)
    size = int(re.search(r"--size=(\d+) fits", str(caught.value))[1])
    fits, not_much_more = (
        estimate.fits(need(schedule_of(x).last), estimate.free_memory())
        for x in (size, int(1.04 * size))
    )
    assert fits
    assert not not_much_more
    assert ("or give --tile=1024" in str(caught.value)) == (tile == 0)


def test_what_is_free_is_what_a_container_leaves(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    monkeypatch.setattr(estimate, "_CGROUP", tmp_path)
    Memory = namedtuple("Memory", "available")
    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory(10**10))
    assert estimate.free_memory().host == int(0.95 * 2 * 10**9)
    (tmp_path / "memory.max").write_text("max\n")
    assert estimate.free_memory().host == int(0.95 * 10**10)


def test_the_pace_is_that_of_the_largest_scale_that_is_not_too_large(given):
    config = dataclasses.replace(given["config"], min_size=32, first_steps=10, steps=5)
    schedule = make_schedule((96, 64), [(40, 40)], config)
    pace = estimate.pace(schedule, most_pixels=48 * 34, config=config)
    # Scales of 34, 48, 68 and 96 px: 10 and three times 5 steps.
    pixels = 34 * 23 * 10 + (48 * 32 + 68 * 45 + 96 * 64) * 5
    assert pace.seconds == pytest.approx(pace.last / (96 * 64) * pixels, rel=1e-6)


def test_memory_and_time_are_those_of_all_devices(given, monkeypatch):
    asked, begin = {}, estimate.begin_scale

    def need(*_, devices, **__):
        asked["need"] = devices
        return Need(1, 1)

    def begin_scale(inputs):
        asked["pace"] = inputs.devices
        return begin(inputs._replace(devices=None))

    monkeypatch.setattr(estimate, "need", need)
    monkeypatch.setattr(estimate, "begin_scale", begin_scale)
    quiet, four = Console(quiet=True), jax.devices() * 4
    schedule = make_schedule((48, 32), [(40, 40)], given["config"])
    console.print_estimate(quiet, schedule, given["config"], devices=four)
    assert asked == {"need": 4, "pace": four}
    console.print_estimate(quiet, schedule, given["config"])
    assert asked == {"need": 1, "pace": None}


RUN = """
import dataclasses, sys, numpy as np
from nst_jax import Config, build_vgg19, stylize
from nst_jax.transfer import estimate
from nst_jax.network.architecture import ARCHITECTURES
from nst_jax.devices.backend import resolve
from peak_memory import peak
config = resolve(Config(min_size=0, steps=1, conv="direct"))
rng = np.random.default_rng(0)
params = {name: rng.normal(0, 0.02, shape).astype(np.float32)
          for name, shape in ARCHITECTURES["vgg19"].parameter_shapes("relu5_1").items()}
network = build_vgg19(params, deepest="relu5_1", pooling="max", padding="replicate")
image = rng.uniform(size=(512, 512, 3)).astype(np.float32)
if sys.argv[1] == "forecast":
    need = estimate.estimate_memory((512, 512), [(512, 512)], config=config)
    print(need.device + need.host)
else:
    list(stylize(image, image, network=network, config=config, snapshot_every=None))
    print(peak())
"""


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_real_run_takes_what_was_forecast():
    """Peak memory of a process of its own: within what was said, and not much less."""

    def run(what):
        command = [sys.executable, "-c", RUN, what]
        environment = os.environ | {"PYTHONPATH": TESTS_PATH}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    said, peak = int(run("forecast")), int(run("job"))
    assert 0.6 * said < peak < 1.05 * said


def test_compiling_for_the_forecast_computes_nothing(given, monkeypatch):
    monkeypatch.setattr(jax.stages.Compiled, "__call__", None)
    assert estimate.estimate_memory((40, 40), [(40, 40)], **given).device > 0


def test_tiles_take_another_forward_pass_and_their_margins(given):
    config = dataclasses.replace(given["config"], tile=16)
    # Windows of 48 px for a picture of 64: two each way, whose parts are 32 px.
    tiled, whole = (make_schedule((64, 64), [], each).last for each in (config, given["config"]))
    assert estimate._work(tiled) == 1.5 * 4 * 48**2
    assert estimate._work(whole) == 64**2


def test_vgg16_is_forecast_as_vgg16(given):
    """Fewer convolutions: less memory, and a narrower margin around tiles."""
    deep = dataclasses.replace(given["config"], style_layers=layers("relu4_1"))
    small = dataclasses.replace(deep, network="vgg16")
    assert len(ahead_of_time.blank_network(small).convs) == 8
    assert len(ahead_of_time.blank_network(deep).convs) == 9
    needs = [
        estimate.estimate_memory((64, 64), [(40, 40)], config=each).device for each in (small, deep)
    ]
    assert needs[0] < needs[1] - 4 * 9 * 256**2
    wide = dataclasses.replace(given["config"], style_layers=layers("relu5_1"), tile=64)
    # A part of 64 px, two margins of 64 or 80 px, and the rest of 300 over 16.
    for network, side in (("vgg16", 204), ("vgg19", 236)):
        covered = tiles((300, 300), dataclasses.replace(wide, network=network))
        assert covered.size == (side, side)
