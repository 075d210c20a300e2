"""Large pictures by the command line: estimates, tiles, devices, checkpoints, processes."""

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import commands
from fast import xla_flags
from nst_jax import Config, layers, save_image
from nst_jax.cli import batch, single, single_plan
from nst_jax.cli import main as cli
from nst_jax.io.checkpoint import CheckpointStore, recall
from nst_jax.scale.prepare import begin_scale
from nst_jax.scale.tiled import TiledScale, tiles
from nst_jax.transfer import estimate
from nst_jax.transfer.estimate import Need
from package import ROOT
from ports import free_port

# It compiles fast.
SHALLOW = (
    "--style-layers=relu1_1,relu2_1",
    "--content-layers=relu2_1",
    "--min-size=0",
    "--steps=4",
)
run = functools.partial(commands.run, cli.main)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images of 100x84 px and one of 24x130."""
    folder, rng = tmp_path_factory.mktemp("scaling"), np.random.default_rng(0)
    for name, height, width in (("in/a", 84, 100), ("in/b", 84, 100), ("tall", 130, 24)):
        y, x = np.mgrid[:height, :width]
        waves = np.sin(np.multiply.outer(rng.uniform(0.1, 0.9, 3), x + y * rng.uniform(0.2, 2)))
        image = 0.5 + 0.3 * waves + rng.uniform(-0.15, 0.15, waves.shape)
        (folder / name).parent.mkdir(exist_ok=True)
        save_image(folder / f"{name}.png", image.transpose(1, 2, 0).astype(np.float32))
    return folder


@pytest.fixture
def job(folder, monkeypatch, tmp_path, untrained_file):
    """The flags of a fast job; it runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    flags = [f"--content={folder / 'in/a.png'}", f"--style={folder / 'in/b.png'}", "--size=100"]
    return [*flags, f"--weights={untrained_file}", *SHALLOW]


@pytest.fixture(scope="module")
def plain(folder, untrained_file):
    """The picture of `job` with direct convolutions, as 8-bit levels."""
    flags = [f"--content={folder / 'in/a.png'}", f"--style={folder / 'in/b.png'}", "--size=100"]
    flags += [f"--weights={untrained_file}", *SHALLOW, "--conv=direct", "--quiet"]
    assert run([*flags, f"--output={folder / 'plain.png'}"]) == 0
    return levels(folder / "plain.png")


def levels(path):
    return np.asarray(Image.open(path)).astype(int)


def one_line(capfd, *said):
    error = capfd.readouterr().err
    assert error.startswith("nst-jax: error: ")
    assert error.count("\n") == 1
    for text in said:
        assert text in error
    return error


@pytest.fixture
def accepted(monkeypatch):
    """Replace every run by exit code 130; return the settings of the runs."""
    found = []

    def stylize(content, styles, *, config, **options):
        found.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(single, "stylize", stylize)
    return found


def test_a_dry_run_says_what_would_be_needed_and_touches_nothing(job, folder, capfd, monkeypatch):
    for module in (single, batch):
        monkeypatch.setattr(module, "run_weights", None)
    assert run([*job, "--weights=auto", "--dry-run", "--checkpoint=c"]) == 0
    alone = capfd.readouterr()
    contents = ["--content", str(folder / "in"), "--output=o"]
    assert run([*job[1:], *contents, "--weights=pretrained", "--dry-run"]) == 0
    both = capfd.readouterr()
    for printed in (alone, both):
        assert printed.err == ""
        assert re.search(r"^memory   0\.9 of \d+\.\d GB free$", printed.out, re.M)
        assert re.search(
            r"^time     about 0:\d\d for 4 steps; the last takes \S+ s$", printed.out, re.M
        )
        assert "weights" not in printed.out
        assert "wrote" not in printed.out
    assert "one picture of the largest size takes\nmemory" in both.out
    assert "2 of 2 to paint, in o" in both.out
    assert os.listdir() == []


def test_what_does_not_fit_is_refused_and_the_size_that_is_named_fits(
    job, folder, capfd, monkeypatch, accepted
):
    free = Need(*2 * [estimate._PROCESS_BYTES + 2 * 10**8])
    monkeypatch.setattr(estimate, "free_memory", lambda: free)
    flags = [*job, "--remat=none", "--conv=direct", "--style-layers=relu1_1"]
    flags.append("--content-layers=relu1_1")
    assert run([*flags, "--size=900"]) == 2
    error = one_line(capfd, "900x756 px need ", "--tile=1024")
    size = int(re.search(r"--size=(\d+) fits", error)[1])
    assert run([*flags, f"--size={size}"]) == 130
    assert run([*flags, "--size=max"]) == 130
    assert run([*flags, "--size=900", "--tile=16"]) == 130
    named, biggest, tiled = accepted
    assert biggest.size == named.size == size
    assert tiled.size == 900

    def need_of(size):
        shape = round(size * 84 / 100), size
        return estimate.estimate_memory(shape, [(84, 100)], config=named)

    assert estimate.fits(need_of(size), free)
    assert not estimate.fits(need_of(int(1.1 * size)), free)


def test_computing_twice_is_for_what_does_not_fit_else(job, capfd, monkeypatch, accepted):
    needs = {"none": 20, "blocks": 10}

    def need(plan, *, config, **options):
        return Need(needs[config.remat] * plan.shape[0] * plan.shape[1], 0)

    monkeypatch.setattr(estimate, "need", need)
    monkeypatch.setattr(estimate, "surely_fits", lambda *_, **__: False)
    for free, flags, code in ((20, (), 130), (19, (), 130), (19, ("--remat=none",), 2), (9, (), 2)):
        there = Need(*2 * [free * 84 * 100])
        monkeypatch.setattr(estimate, "free_memory", lambda there=there: there)
        capfd.readouterr()
        assert run([*job, *flags]) == code
        if code == 2:
            one_line(capfd, "100x84 px need ")
    assert [config.remat for config in accepted] == ["none", "blocks"]


def test_blocks_that_are_computed_twice_make_the_same_picture(job, plain):
    assert run([*job, "--conv=direct", "--remat=blocks", "--output=o.png"]) == 0
    assert np.abs(levels("o.png") - plain).max() <= 1


def test_tiles_make_the_same_picture_each_alone(job, folder, plain, capfd):
    taps = Config(style_layers=layers("relu1_1", "relu2_1"), content_layers=(), tile=16)
    assert len(tiles((84, 100), taps).windows) == 12
    flags = [*job, "--conv=direct", "--tile=16"]
    assert run([*flags, "--output=o.png"]) == 0
    assert np.abs(levels("o.png") - plain).max() <= 1
    assert run([*flags[1:], "--content", str(folder / "in"), "--output=o"]) == 0
    printed = capfd.readouterr()
    assert "100x84 px: 2 to paint, 1 at once" in printed.out
    np.testing.assert_array_equal(levels("o/a.png"), levels("o.png"))
    assert levels("o/b.png").shape == (84, 100, 3)
    assert run([*flags[1:], "--content", str(folder / "in"), "--output=p", "--batch=2"]) == 2
    one_line(capfd, "--batch is 2, but a tile takes one picture at a time")
    assert not Path("p").exists()


# All tests with two devices run in one process, as JAX learns of the devices before it starts.
TWO_DEVICES = """
import contextlib, io, json, sys
from nst_jax.cli.main import main
found = []
for flags in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(flags)
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


def test_two_devices_paint_the_picture_of_one(job, folder):
    tall = [*job[1:], f"--content={folder / 'tall.png'}", "--size=130"]
    both = [*job[1:], "--content", str(folder / "in"), "--conv=direct"]
    jobs = [
        [*tall, "--conv=direct", "--output=one.png"],
        [*tall, "--devices=2", "--output=two.png"],
        [*tall, "--devices=3", "--output=three.png"],
        [*both, "--output=one"],
        [*both, "--devices=2", "--batch=2", "--output=two"],
    ]
    # Two devices pad the 130 rows; the run continues with another number of rows.
    kept = [
        *tall,
        "--conv=direct",
        "--checkpoint=c",
        "--checkpoint-seconds=0",
        "--output=again.png",
    ]
    jobs += [[*kept, f"--devices={count}"] for count in (2, 1, 2)]
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, json.dumps(jobs)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": xla_flags(devices=2),
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [code for code, *_ in found] == [0, 0, 2, *5 * [0]], found
    for number, device in ((0, "cpu"), (1, "2 x cpu"), (3, "cpu"), (4, "2 x cpu")):
        _, out, err = found[number]
        assert f"device   {device}\n" in out
        assert "numbers  float32, direct convolutions\n" in out
        assert err == ""
    assert found[2][1:] == [
        "",
        "nst-jax: error: devices is 3, but JAX sees 2; allowed are 1 to 2, or all\n",
    ]
    assert "100x84 px: 2 to paint, 2 at once" in found[4][1]
    for _, out, err in found[6:]:
        assert first_step(out) == 1 + int(re.search(r"resume   from step (\d+)", out)[1])
        assert err == ""
    assert np.abs(levels("one.png") - levels("again.png")).max() <= 1
    for name in (".png", "/a.png", "/b.png"):
        assert np.abs(levels(f"one{name}") - levels(f"two{name}")).max() <= 1


# The command line with a short heartbeat, so that a lost process is noticed soon.
IMPATIENT = """
import functools, sys
from nst_jax.cli import main
main.launch.together = functools.partial(main.launch.together, heartbeat=4)
sys.exit(main.main())
"""


def start(*flags, program=(str(ROOT / "main.py"),)):
    return subprocess.Popen(
        [sys.executable, "-W", "error", *program, *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(happened, process):
    ends = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(0.01)


def wait_for_checkpoint(folder, least, process):
    """Wait until there is a checkpoint of step `least` or later."""

    def happened():
        names = os.listdir(folder) if os.path.isdir(folder) else ()
        return any(name.isdecimal() and int(name) >= least for name in names)

    wait_for(happened, process)


def first_step(printed):
    return int(re.search(r"^step +(\d+)/", printed, re.M)[1])


@pytest.fixture
def _orbax():
    pytest.importorskip("orbax.checkpoint", reason="not installed: pip install '.[checkpoint]'")


def interrupt(flags, monkeypatch):
    """Run a job that saves o_2.png on the way, and stop it there."""

    def save(path, image, **options):
        if path.name == "o_2.png":
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(single, "save_image", save)
        assert run(flags) == 130


@pytest.mark.usefixtures("_orbax")
def test_a_run_goes_on_with_what_was_chosen_for_it(job, capfd, monkeypatch):
    """The choices are kept, although another size and remat would be chosen now."""
    flags = [*job, "--steps=6", "--save-every=2", "--output=o.png", "--size=max", "--checkpoint=c"]
    seen, now = [], {"size": 40, "remat": "blocks"}

    def fit_to_memory(schedule_of, *, config, may_remat, **__):
        asked = "auto" if may_remat else config.remat
        seen.append((config.size, config.conv, asked))
        size = now["size"] if config.size == "max" else config.size
        remat = now["remat"] if may_remat else config.remat
        return dataclasses.replace(config, size=size, remat=remat), schedule_of(size)

    monkeypatch.setattr(single_plan, "fit_to_memory", fit_to_memory)
    interrupt(flags, monkeypatch)
    now.update(size=64, remat="none")
    capfd.readouterr()
    save_image("other.png", np.zeros((84, 100, 3), np.float32))
    for change, other in (
        ("--content=other.png", "another content image"),
        ("--start-image=other.png", "no start image"),
        ("--size=40", "size max, not 40"),
        ("--remat=blocks", "remat auto, not blocks"),
    ):
        others = [each for each in flags if each.split("=")[0] != change.split("=")[0]]
        assert run([*others, change]) == 2
        one_line(capfd, f"belongs to another job, made from {other}; give what was given then, or")
    assert run(flags) == 0
    assert re.search(r"^resume   from step [2345]$", capfd.readouterr().out, re.M)
    assert seen[0] == ("max", "winograd", "auto")
    assert seen[-1] == (40, "winograd", "blocks")
    assert levels("o.png").shape == (34, 40, 3)


@pytest.mark.usefixtures("_orbax")
def test_scales_without_checkpoints_are_named(job, capfd, monkeypatch, accepted):
    monkeypatch.setattr(single, "lay_out", lambda shape, devices: shape)
    monkeypatch.setattr(single, "is_shared", lambda shape: shape[1] > 60)
    flags = [*job, "--min-size=40", "--checkpoint=c"]
    assert run(flags) == 130
    said = "no checkpoints are kept at 50x42 px, where the picture is too small for all processes"
    assert f"nst-jax: {said}\n" in capfd.readouterr().err


@pytest.mark.usefixtures("_orbax")
def test_what_this_machine_cannot_do_is_not_recalled(tmp_path):
    chosen = {"size": 64, "precision": "bfloat16", "conv": "winograd", "remat": "none"}
    CheckpointStore(tmp_path, fingerprint={"a": 1}, chosen=chosen, warn=print).close()

    def recalled(config, devices=1):
        found = single_plan.recalled(config, recall(tmp_path), devices=devices)
        return found.size, found.precision, found.conv, found.remat

    auto, given = Config(), Config(precision="float32", conv="direct", remat="blocks", size=50)
    assert recalled(auto) == (auto.size, "bfloat16", "winograd", "auto")
    assert recalled(auto, devices=2) == (auto.size, "bfloat16", "auto", "auto")
    assert recalled(Config(size="max")) == (64, "bfloat16", "winograd", "auto")
    assert recalled(given) == (50, "float32", "direct", "blocks")
    assert single_plan.recalled(auto, {}, devices=1) == auto


@pytest.mark.usefixtures("_orbax")
def test_a_stop_is_kept_also_with_the_state_on_the_host(job, capfd, monkeypatch):
    flags = [*job, "--conv=direct", "--tile=16", "--steps=6", "--save-every=2", "--output=o.png"]
    kept = [*flags, "--checkpoint=c"]  # none would be due before the end

    kinds = []

    def spy(inputs):
        scale = begin_scale(inputs)
        kinds.append(type(scale))
        return scale

    monkeypatch.setattr("nst_jax.transfer.painting.begin_scale", spy)

    interrupt(kept, monkeypatch)
    assert kinds == [TiledScale]
    (step,) = (int(name) for name in os.listdir("c") if name.isdecimal())
    assert 2 <= step < 6
    capfd.readouterr()
    assert run(kept) == 0
    printed = capfd.readouterr().out
    assert f"resume   from step {step}\n" in printed
    assert first_step(printed) == step + 1
    resumed = Path("o.png").read_bytes()
    assert run(flags) == 0
    assert Path("o.png").read_bytes() == resumed


def start_two(*flags, **program):
    port = free_port()
    both = [*flags, f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    return [start(*both, f"--process={number}", **program) for number in range(2)]


def ends(processes, seconds=120):
    """Return the exit code and the output of each process."""
    try:
        said = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def test_a_process_stops_when_another_was_told_to(job, capfd, monkeypatch):
    monkeypatch.setattr(single, "agree", lambda flag: True)
    assert run([*job, "--conv=direct", "--output=o.png"]) == 143
    assert "stopped by SIGTERM: o.png is the picture so far" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("_orbax")
def test_two_processes_paint_what_one_does_and_go_on_when_one_was_lost(job, folder, capfd):
    flags = [*job[1:], f"--content={folder / 'tall.png'}", "--size=130", "--conv=direct"]
    # Programs of several processes are not cached: this compiles fastest.
    flags += ["--style-layers=relu1_1", "--content-layers=relu1_1"]
    flags += ["--steps=24", "--save-every=2", "--checkpoint-seconds=0.1", "--output=o.png"]
    codes, said = ends(start_two(*flags, "--checkpoint=a"))
    assert codes == [0, 0], said
    assert said[1] == ("", "")
    assert "device   2 x cpu\n" in said[0][0]
    assert "wrote    o.png after 24 steps" in said[0][0]
    assert said[0][1] == ""
    uninterrupted = Path("o.png").read_bytes()
    Path("o.png").unlink()

    kept = [*flags, "--checkpoint=b"]
    processes = start_two(*kept)
    try:
        wait_for_checkpoint("b", 4, processes[0])
    finally:
        processes[1].kill()
    codes, said = ends(processes)
    assert codes == [1, -signal.SIGKILL], said
    error = said[0][1]
    assert error.startswith("nst-jax: process 1 of 2 was lost (")
    assert error.endswith(
        "start all again with the same command; it goes on from the last checkpoint\n"
    )
    assert error.count("\n") == 1

    codes, said = ends(start_two(*kept))
    assert codes == [0, 0], said
    step = int(re.search(r"^resume   from step (\d+)$", said[0][0], re.M)[1])
    assert first_step(said[0][0]) == step + 1
    assert Path("o.png").read_bytes() == uninterrupted

    # One process paints the same. Not all steps are compared, as rounding changes ever more pixels.
    early = levels("o_04.png")
    assert run(flags) == 0
    assert np.abs(levels("o_04.png") - early).max() <= 1


@pytest.mark.slow
def test_two_processes_take_pictures_in_turn_and_stop_together(job, folder, capfd):
    Path("bad.png").write_text("no picture")
    contents = [str(folder / "in"), str(folder / "tall.png"), "bad.png"]
    flags = [*job[1:], "--content", *contents, "--conv=direct", "--output=o"]
    # One process gets both pictures of one shape, the other the third.
    flags += ["--style-layers=relu1_1", "--content-layers=relu1_1"]
    processes = start_two(*flags, "--steps=1000000", "--save-every=1")
    wait_for(lambda: all(os.path.isdir(f"o/{name}") for name in ("a", "tall")), processes[0])
    processes[1].terminate()
    codes, said = ends(processes)
    assert codes == [143, 143], said
    assert "stopped by SIGTERM: 0 of 4 pictures are done; the same command goes on" in said[0][1]
    assert said[1] == ("", "nst-jax: stopping after this step; a second signal stops at once\n")

    codes, said = ends(start_two(*flags))
    assert codes == [1, 1], said
    assert "shared   by 2 processes, this one paints 2\n" in said[0][0]
    assert "done     3 of 4 pictures are in o\n" in said[0][0]
    assert said[0][1].count("\n") == 1
    assert "bad.png" in said[0][1]
    assert said[1] == ("", "")
    shared = {name: levels(f"o/{name}.png") for name in ("a", "b", "tall")}
    assert run([*flags, "--overwrite"]) == 1
    for name, picture in shared.items():
        np.testing.assert_array_equal(levels(f"o/{name}.png"), picture)


@pytest.mark.slow
def test_what_is_done_stays_when_one_of_two_processes_is_lost(job, folder):
    shutil.copy(folder / "in/a.png", "c.png")
    contents = [str(folder / "in"), "c.png", str(folder / "tall.png")]
    flags = [*job[1:], "--content", *contents, "--conv=direct", "--output=o", "--batch=1"]
    flags += ["--style-layers=relu1_1", "--content-layers=relu1_1", "--steps=150"]
    # Process 0 paints a and c, process 1 b and tall, for which it has to compile once more.
    processes = start_two(*flags, program=("-c", IMPATIENT))
    try:
        wait_for(Path("o/a.png").exists, processes[0])
    finally:
        processes[1].kill()
    codes, said = ends(processes, 60)
    assert codes == [1, -signal.SIGKILL], said
    error = said[0][1]
    assert error.startswith("nst-jax: process 1 of 2 was lost (")
    assert error.endswith("); start all again with the same command\n")
    assert error.count("\n") == 1

    done = {path.name: path.read_bytes() for path in Path("o").iterdir()}
    assert "a.png" in done
    assert "tall.png" not in done
    codes, said = ends(start_two(*flags))
    assert codes == [0, 0], said
    assert f"skipping {len(done)} finished before" in said[0][0]
    assert "done     4 of 4 pictures are in o\n" in said[0][0]
    found = {path.name: path.read_bytes() for path in Path("o").iterdir()}
    assert found.keys() == {"a.png", "b.png", "c.png", "tall.png"}
    assert done.items() <= found.items()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--size=max"], "--size=max is for one picture; for several, give a number of px"),
        (["--checkpoint-seconds=-1"], "'-1' is not a number of at least 0"),
        (["--checkpoint-seconds=nan"], "'nan' is not a number of at least 0"),
        (["--checkpoint-seconds=soon"], "'soon' is not a number of at least 0"),
        (["--devices=0"], "'0' is not a whole number of at least 1"),
        (["--devices=2"], "devices is 2, but JAX sees 1"),
        (["--processes=0"], "'0' is not a whole number of at least 1"),
        (["--tile=-1"], "tile is -1"),
        (["--remat=some"], "remat"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(job, folder, flags, said, capfd):
    assert run([*job[1:], "--content", str(folder / "in"), *flags]) == 2
    one_line(capfd, said)
    assert os.listdir() == []


def test_processes_without_a_coordinator(job):
    """In a new process, since `together` ends its process."""
    codes, ((out, error),) = ends([start(*job, "--processes=2", "--process=0")])
    assert (codes, out) == ([2], "")
    assert error.startswith("nst-jax: error: the coordinator is None, the number of processes 2")
    assert error.count("\n") == 1
