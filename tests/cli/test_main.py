"""The command line, mostly in this process; signals and exits are tested in other processes."""

import functools
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
import safetensors.numpy

import commands
from fast import xla_flags
from nst_jax import PRESETS, layers, load_image, save_image
from nst_jax.cli import console, interrupts, run_network, single
from nst_jax.cli import main as cli
from nst_jax.cli.manifest import read_manifest
from nst_jax.weights import sources
from package import ROOT

SHALLOW = ("--style-layers=relu1_1,relu2_1", "--content-layers=relu2_1")  # it compiles fast


@pytest.fixture
def job(tmp_path, monkeypatch, photographs, untrained):
    """Two images and a fast job; calibrating the untrained network once serves all tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "untrained_params", lambda *_: untrained)
    for name, image in zip(("content.png", "style.png"), photographs, strict=True):
        save_image(tmp_path / name, image)
    return [
        "--content=content.png",
        "--style",
        "style.png",
        "--size=24",
        "--min-size=0",
        "--steps=4",
    ]


run = functools.partial(commands.run, cli.main)


def test_the_whole_job(job, capfd):
    assert run([*job, "--output=out.jpg"]) == 0
    printed = capfd.readouterr()
    assert re.search(r"device +cpu", printed.out)
    assert "numbers  float32, winograd convolutions\n" in printed.out
    assert "content.png, 24x20 px" in printed.out
    assert re.search(r"step 4/4  content \S+ style \S+ total \S+", printed.out)
    assert "wrote    out.jpg after 4 steps" in printed.out
    # The warning is at the start and at the end: which weights, why, and what to do.
    assert printed.err.count("WARNING: THE NETWORK IS NOT TRAINED (untrained, seed 0)") == 2
    assert printed.err.count("cannot download") == 2
    assert printed.err.count("nst-jax-convert") == 2
    assert load_image("out.jpg").shape == (20, 24, 3)
    assert sorted(os.listdir()) == ["content.png", "out.jpg", "style.png"]


def test_flags_reach_the_settings(job, capfd, monkeypatch):
    seen = {}

    def stylize(content, style, *, network, config, **options):
        seen.update(vars(config), content=content, network=network, options=options)
        raise KeyboardInterrupt

    monkeypatch.setattr(single, "stylize", stylize)
    flags = ["--preset=pytorch", "--learning-rate", "0.5", "--content-weight=2", "--seed=3"]
    flags += ["--style-weight=7.5", "--pooling=max", "--padding=replicate", "--save-every=3"]
    flags += ["--style-layers=relu1_1:2.5,relu5_1"]
    assert run([*job, *flags]) == 130
    assert (seen["learning_rate"], seen["content_weight"]) == (0.5, 2.0)
    assert (seen["style_weight"], seen["seed"], seen["steps"]) == (7.5, 3, 4)
    assert seen["style_layers"] == layers(relu1_1=2.5, relu5_1=1.0)
    assert len(seen["network"].convs) == 13  # no layer after relu5_1
    assert (seen["network"].pooling, seen["network"].padding) == ("max", "replicate")
    assert seen["beta1"] == 0.5  # the preset's
    assert seen["options"]["snapshot_every"] == 3
    assert "interrupted" in capfd.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--optimizer=lbfgs-torch", "--memory-size=3"],
        ["--precision=float64"],
    ],
)
def test_other_optimizers_and_types(job, capfd, flags):
    assert run([*job, *SHALLOW, *flags, "--output=o.png"]) == 0
    assert load_image("o.png").shape == (20, 24, 3)


def test_save_every_writes_pictures_on_the_way(job):
    assert run([*job, "--steps=10", "--save-every=4", "--output=o.png", "--quiet"]) == 0
    assert {"o.png", "o_04.png", "o_08.png"} < set(os.listdir())
    pictures = [load_image(name) for name in ("o_04.png", "o_08.png", "o.png")]
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])


def test_the_header_says_what_will_be_done(job, capfd):
    flags = ["--min-size=17", "--first-steps=3", "--style=content.png", "--style-scale=0.5"]
    flags += ["--style-layers=relu1_1:2,relu2_1", "--content-layers=relu2_1"]
    assert run([*job, *flags]) == 0
    printed = capfd.readouterr().out
    assert "style    style.png, 9x12 px\n" in printed
    assert "style    content.png, 12x10 px\n" in printed
    assert "steps    7 of adam, preset default\n" in printed
    assert "scales   17x14: 3, 24x20: 4\n" in printed
    assert re.search(r"step 7/7 ", printed)


def test_the_only_scale_is_the_first(job, capfd, monkeypatch):
    """--steps, which is for the others, would surprise by doing nothing."""

    def stylize(*_, config, **__):
        seen.append((config.first_steps, config.steps))
        raise KeyboardInterrupt

    seen = []
    monkeypatch.setattr(single, "stylize", stylize)
    said = "--steps has no effect at 24x20 px, where the only scale is the first; --first-steps"
    for flags, warned in (
        (["--min-size=128"], True),
        (["--min-size=128", "--first-steps=5"], False),
        (["--min-size=17", *SHALLOW], False),
        ([], False),
    ):
        assert run([*job, *flags]) == 130
        printed = capfd.readouterr()
        assert (said in printed.err) == warned
        assert ("scales   24x20: 110\n" in printed.out) == warned
    assert seen == [(110, 4), (5, 4), (110, 4), (110, 4)]


def test_several_styles_and_a_start(job, monkeypatch):
    seen = {}

    def stylize(content, styles, *, start, config, **options):
        seen.update(styles=styles, start=start, config=config)
        raise KeyboardInterrupt

    monkeypatch.setattr(single, "stylize", stylize)
    flags = ["--style", "content.png", "style.png", "--style-blend=2,1,1", "--start-blend=0.5"]
    assert run([*job, *flags, "--start-image=style.png", "--no-clamp"]) == 130
    assert [image.shape for image in seen["styles"]] == [(24, 19, 3), (20, 24, 3), (24, 19, 3)]
    assert seen["start"].shape == (20, 24, 3)
    assert seen["config"].style_blend == (2.0, 1.0, 1.0)
    assert not seen["config"].clamp


@pytest.mark.parametrize("name", sorted({*PRESETS} - {"default", "pytorch"}))  # in other tests
def test_every_preset_makes_a_picture(job, name):
    flags = [f"--preset={name}", "--side=longest", "--steps=2", "--first-steps=2", "--min-size=0"]
    assert run([*job, *flags, *SHALLOW, "--output=o.png"]) == 0
    assert load_image("o.png").shape == (20, 24, 3)


def test_the_presets_are_listed(capfd):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--list-presets"])
    assert ended.value.code == 0
    printed = capfd.readouterr().out
    assert [line for line in printed.splitlines() if not line.startswith(" ")] == [*PRESETS]
    crowson = printed.split("crowson\n")[1]
    assert re.search(r"style-layers +relu1_1:0.750733,", crowson)
    assert "precision" not in crowson  # as in the default


def test_quiet_prints_warnings_only(job, capfd):
    assert run([*job, "--quiet", "--weights=untrained:3"]) == 0
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 2
    assert "an untrained network was asked for" in printed.err


def test_the_result_does_not_depend_on_the_day(job):
    assert run([*job, "--output=a.png"]) == run([*job, "--output=b.png"]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--content=missing.png"], "missing.png"),
        (["--content=folder.png"], "--content: the folder 'folder.png' has no image file"),
        (["--style=notes.txt"], "not a readable image"),
        (["--output=missing/out.png"], "missing"),
        (["--output=out.gif"], ".png, .jpg"),
        (["--output=."], "it is a folder; name a file in it"),
        (["--output=folder.png"], "folder"),
        (["--output=content.png"], "is the input image content.png"),
        (["--preset=paper"], "preset is 'paper'; allowed are default, graphic, pytorch"),
        (["--size=0"], "--size is '0'; it must be px of one side as 512, WIDTHxHEIGHT"),
        (["--size=1.5"], "--size is '1.5'; it must be px of one side as 512, "),
        (["--size=12"], "at least 16 px"),
        (["--steps=-3"], "steps is -3; it must be at least 1"),
        (["--learning-rate=0"], "it must be above 0"),
        (["--learning-rate=fast"], "--learning-rate is 'fast'; it must be a number"),
        (["--style-weight=inf"], "style-weight is inf"),
        (["--pooling=mean"], "allowed are average, max, l2"),
        (["--optimizer=sgd"], "allowed are adam, lbfgs, lbfgs-torch"),
        (
            ["--optimizer=lbfgs", "--learning-rate=1"],
            "learning-rate is for the optimizer adam, but the optimizer is lbfgs",
        ),
        (["--average-decay=0.9", "--picture=last"], "average-decay is for the picture average"),
        (["--style-size=9", "--style-fit=stretch"], "style-size is for the style fit longest or"),
        (["--memory-size=5"], "memory-size is for the optimizer lbfgs or lbfgs-torch"),
        (["--optimizer=lbfgs", "--memory-size=0"], "memory-size is 0; it must be at least 1"),
        (["--precision=float16"], "allowed are auto, float32, tf32, bfloat16, float64"),
        (["--precision=tf32"], "precision is tf32, which a cpu does not have; allowed are"),
        (["--conv=fft"], "allowed are auto, direct, winograd"),
        (
            ["--conv=winograd", "--precision=tf32"],
            "conv is winograd, which is for float32",
        ),
        (["--save-every=0"], "'0' is not a whole number of at least 1"),
        (["--process=-1"], "'-1' is not a whole number of at least 0"),
        (["--network=vgg13"], "network is 'vgg13'; allowed are vgg19, vgg16"),
        (
            ["--network=vgg16", "--style-layers=relu1_1,relu3_4"],
            "style-layers: unknown VGG-16 layer: 'relu3_4'; allowed are conv1_1",
        ),
        (["--network=vgg16", "--content-layers=conv5_4"], "content-layers: unknown VGG-16 layer"),
        (["--weights=nothing.pth"], "nothing.pth"),
        (["--weights=pretrained"], "cannot download"),
        (["--weights=notes.txt"], "notes.txt"),
        (["--sizes=3"], "--sizes"),
        (["--style", "style.png", "missing.png"], "missing.png"),
        (["--style=style.png", "--output=style.png"], "is the input image style.png"),
        (["--start-image=missing.png"], "missing.png"),
        (["--start=white"], "allowed are content, noise, gray, style"),
        (["--style-blend=1,2,3"], "style-blend has 3 shares, but the number of styles is 1"),
        (["--style-blend=one"], "--style-blend is 'one'; it must be numbers, as 2,1"),
        (["--style-layers=relu9_1"], "unknown VGG-19 layer: 'relu9_1'"),
        (["--style-layers=relu1_1:much"], "it must be layers with weights, as relu1_1:256"),
        (["--style-layers=none", "--content-layers=none"], "unknown VGG-19 layer: none"),
        (
            ["--content-weight=0", "--style-weight=0", "--tv-weight=0"],
            "all weights are 0, so there is nothing to optimize; give one more than 0",
        ),
        (["--size=2", "--style-layers=relu2_1"], "the content image: an image of 2x2 px is too"),
        (
            ["--style-size=3"],
            "an image of 2x3 px is too small for the layer relu5_1: both sides must be at least "
            "16 px; the style size leaves so little of its 41x53 px; give a larger one",
        ),
        (["--style-scale=0.1"], "the style scale leaves so little of its 41x53 px; give a larger"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(job, flags, said, capfd):
    Path("notes.txt").write_text("no image")
    Path("folder.png").mkdir()
    before = {name: Path(name).stat().st_mtime for name in os.listdir()}
    # A bad one of several content images is skipped, so the bad one must be alone.
    rest = job[1:] if flags[0].startswith("--content=") else job
    assert run([*rest, *flags]) == 2
    printed = capfd.readouterr()
    assert said in printed.err
    assert printed.err.startswith("nst-jax: error: ")
    assert printed.err.count("\n") == 1
    assert {name: Path(name).stat().st_mtime for name in os.listdir()} == before


def test_no_arguments(capfd):
    assert run([]) == 2
    assert "required: --content, --style" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "what", "advice"),
    [
        (
            ["--learning-rate=1e38"],
            "the content term of relu1_1 became infinite or not a number at step 2",
            "--on-nan=backoff, or a smaller --learning-rate than",
        ),
        (
            ["--content-weight=3e38", "--start=noise"],
            "the loss became infinite or not a number at step 1",
            "a smaller --content-weight than",
        ),
        (
            ["--style-weight=1e24"],
            "the squares of the gradient became infinite at step ",
            "a smaller --style-weight than",
        ),
    ],
)
def test_diverging_keeps_the_last_good_picture(job, capfd, flags, what, advice):
    assert run([*job, "--preset=pytorch", "--steps=30", *flags, "--output=o.png"]) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"nst-jax: {what}")
    assert f"the picture is the last good one; give {advice}" in error
    assert load_image("o.png").shape == (20, 24, 3)


def test_diverging_can_go_on_with_shorter_steps(job, capfd):
    flags = ["--preset=pytorch", "--steps=30", "--learning-rate=50", "--on-nan=backoff"]
    assert run([*job, *flags, "--output=o.png"]) == 0
    lines = capfd.readouterr().err.splitlines()
    said = "going on from the last good state with steps of a quarter of the length"
    assert all(line.endswith(said) for line in lines if "step" in line)
    assert any("the loss grew a thousandfold at step 2" in line for line in lines)
    assert read_manifest(Path("o.png"))["step"] == 30


def test_a_picture_that_cannot_be_written_at_the_end_is_not_lost(job, capfd, monkeypatch):
    Path("folder").mkdir()
    right = console.save_image

    def full_disk(path, image, **note):
        if Path(path).parent.name == "folder":
            raise OSError(28, "No space left on device")
        right(path, image, **note)

    for module in (single, console):
        monkeypatch.setattr(module, "save_image", full_disk)
    assert run([*job, "--output=folder/o.png", "--save-every=2"]) == 1
    error = capfd.readouterr().err
    assert error.count("going on") == 2
    rescued = Path(re.search(r"the picture is (\S+)", error)[1])
    assert load_image(rescued).shape == (20, 24, 3)
    shutil.rmtree(rescued.parent)


@pytest.fixture
def accepted(monkeypatch):
    """Replace every run by exit code 130; return the networks of the runs."""
    found = []

    def stylize(content, styles, *, config, **options):
        found.append(config.network)
        raise KeyboardInterrupt

    monkeypatch.setattr(single, "stylize", stylize)
    return found


def start(folder, *flags):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags()}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *flags],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_stopped_it_writes_the_picture_so_far(job, tmp_path, number, code, untrained_file):
    flags = [*job, *SHALLOW, f"--weights={untrained_file}", "--steps=100000", "--output=o.png"]
    process = start(tmp_path, *flags)
    for line in process.stdout:
        if line.startswith("step"):
            break
    time.sleep(0.5)
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "o.png is the picture so far" in error
    steps = int(re.search(r"after (\d+) steps", out)[1])
    assert 0 < steps < 100_000
    assert load_image(tmp_path / "o.png").shape == (20, 24, 3)
    assert "Traceback" not in error


def test_a_hangup_comes_twice():
    """The kernel and the shell each send SIGHUP; the second one does not kill."""
    before = signal.getsignal(signal.SIGHUP)
    with interrupts.stop_signals() as received:
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
    assert received == [signal.SIGHUP]
    assert signal.getsignal(signal.SIGHUP) is before


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupts.stop_signals() as received:
            signal.raise_signal(signal.SIGHUP)
        assert received == []
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_device_that_is_not_there_is_one_line(job, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    process = start(tmp_path, *job)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    assert error.startswith("nst-jax: error: JAX finds no device: ")
    assert error.count("\n") == 1


def test_the_users_folder_is_found_where_the_shell_leaves_it(job, tmp_path, monkeypatch, accepted):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    shutil.copy("content.png", home)
    flags = ["--content=~/content.png", *job[1:], "--start-image=~/content.png"]
    assert run([*flags, "--output=~/o.png"]) == 130
    assert accepted == ["vgg19"]
    monkeypatch.setenv("NST_JAX_CACHE", "~/cache")
    assert sources.cached_weights("vgg19") == home / "cache" / "vgg19.safetensors"


def test_main_py_on_a_terminal_shows_a_bar(job, tmp_path):
    """A pseudo-terminal gets a live bar instead of lines."""
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *job, *SHALLOW],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "150", "XLA_FLAGS": xla_flags()},
        stdout=child,
        stderr=subprocess.DEVNULL,
    )
    os.close(child)
    shown = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        shown += part
    os.close(parent)
    assert process.wait(timeout=60) == 0
    assert "4/4" in shown.decode()
    assert "━" in shown.decode()
    assert "step 4/4" not in shown.decode()


class TestNetworks:
    """Which network paints, and what the command line says of it."""

    def test_vgg16_paints_where_vgg19_cannot_be_had(self, job, package, capfd):
        # A layer after conv3_3, where the two networks begin to differ.
        flags = ["--style-layers=relu1_1", "--content-layers=conv4_1"]
        assert run([*job, *flags, "--output=o.png"]) == 0
        printed = capfd.readouterr()
        assert f"weights  VGG-16, {package / 'weights' / 'vgg16.ckpt'}" in printed.out
        assert re.fullmatch(
            r"nst-jax: VGG-16 paints, not VGG-19\. Why: cannot download \S+: .*\. "
            r"To get VGG-19: nst-jax-convert\n",
            printed.err,
        )
        assert load_image("o.png").shape == (20, 24, 3)

    def test_many_pictures_too(self, job, package, capfd):
        flags = [*job, *SHALLOW, "--content=style.png", "--output=o", "--steps=2"]
        assert run(flags) == 0
        printed = capfd.readouterr()
        assert "weights  VGG-16, " in printed.out
        assert printed.err.count("VGG-16 paints, not VGG-19") == 1
        assert sorted(os.listdir("o")) == ["content.png", "style.png"]

    def test_vgg16_downloads_nothing_and_says_nothing(self, job, package, capfd, monkeypatch):
        monkeypatch.setattr(sources, "download", None)  # it would fail
        assert run([*job, *SHALLOW, "--network=vgg16"]) == 0
        printed = capfd.readouterr()
        assert "weights  VGG-16, " in printed.out
        assert printed.err == ""

    @pytest.mark.parametrize("flags", [[], ["--network=vgg16"]])
    def test_the_parity_preset_says_that_it_was_not_vgg19(self, job, package, capfd, flags):
        assert run([*job, *SHALLOW, "--preset=pytorch", *flags]) == 0
        said = capfd.readouterr().err
        assert said.count("WARNING: VGG-16 paints, but the preset pytorch is a program with") == 2
        assert said.count("VGG-16 paints, not VGG-19") == (not flags)

    def test_processes_that_found_different_networks_stop(self, job, capfd, monkeypatch):
        monkeypatch.setattr(run_network, "allgather_json", lambda name, found: ["VGG-19", found])
        assert run([*job, *SHALLOW, "--weights=untrained"]) == 2
        said = "the processes have found different networks: VGG-19; VGG-19, untrained; give all"
        assert said in capfd.readouterr().err

    def test_pretrained_stays_strict(self, job, package, capfd):
        assert run([*job, "--weights=pretrained"]) == 2
        assert "cannot download" in capfd.readouterr().err

    def test_a_file_is_of_the_network_that_it_is(self, job, state16, capfd):
        safetensors.numpy.save_file(state16, "w.safetensors")
        flags = [*job, *SHALLOW, "--weights=w.safetensors"]
        assert run(flags) == 0
        assert "weights  VGG-16, w.safetensors" in capfd.readouterr().out
        for more, said in (
            ("--network=vgg19", "w.safetensors is VGG-16, not VGG-19; leave --network out"),
            ("--style-layers=relu3_4", "style-layers: unknown VGG-16 layer: 'relu3_4'"),
        ):
            assert run([*flags, more]) == 2
            printed = capfd.readouterr().err
            assert said in printed
            assert printed.count("\n") == 1


@pytest.mark.optimized
@pytest.mark.slow
def test_the_recipe_paints_with_trained_weights(package, tmp_path, capfd):
    """Its losses come to what they were measured to be.

    In float64 one thread and two come to the same four digits; in float32 rounding grows in these
    60 steps until the content loss is up to 5 % away. Average pooling, zeros as padding, no total
    variation, or half the weight of relu1_1 end 3 to 11 % away, in one of the losses.
    """
    images, output = [ROOT / f"png/{name}.png" for name in ("content", "style")], tmp_path / "o.png"
    flags = [f"--content={images[0]}", f"--style={images[1]}", f"--output={output}"]
    flags += ["--network=vgg16", "--size=128", "--first-steps=60", "--precision=float64"]
    assert run(flags) == 0
    printed = capfd.readouterr()
    assert printed.err == ""
    last = re.findall(r"step 60/60  content (\S+) style (\S+) total (\S+)", printed.out)
    np.testing.assert_allclose([float(x) for x in last[0]], [0.4196, 2.673, 4.267], rtol=0.005)
    assert np.abs(load_image(output) - load_image(images[0], size=128)).mean() > 0.05


def test_only_a_process_of_its_own_ends_without_looking_for_garbage(monkeypatch, tmp_path, capsys):
    done = []
    monkeypatch.setattr(cli.gc, "freeze", lambda: done.append("frozen"))
    monkeypatch.setattr(cli.atexit, "register", lambda function: done.append(function))
    flags = [f"--content={tmp_path / 'none.png'}", f"--style={tmp_path / 'none.png'}"]
    assert cli.main(flags) == 2
    assert not done
    monkeypatch.setattr(cli.sys, "argv", ["nst-jax", *flags])
    assert cli.main() == 2
    assert done == ["frozen", cli.gc.freeze]
