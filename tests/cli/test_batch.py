"""Many pictures by the command line. `stylize` is faked where the picture does not matter."""

import dataclasses
import functools
import os
import re
import shutil
import signal
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import commands
from nst_jax import Config, layers, load_image, save_image
from nst_jax.cli import batch, batch_painter
from nst_jax.cli import main as cli
from nst_jax.devices.backend import resolve
from nst_jax.geometry import resample
from nst_jax.io.extras import load_extras
from nst_jax.losses.objective import Losses
from nst_jax.scale import step as scale_step
from nst_jax.transfer.initial_image import first_picture
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.schedule import make_schedule
from nst_jax.weights import sources
from nst_jax.weights.converted_file import Weights

run = functools.partial(commands.run, cli.main)
FAST = (
    "--size=24",
    "--min-size=0",
    "--style-layers=relu1_1",
    "--content-layers=relu1_1",
    "--weights=untrained",
)


@pytest.fixture
def album(tmp_path, monkeypatch, photographs):
    """Three content images of one shape, one of another shape, and two style images."""
    monkeypatch.chdir(tmp_path)
    content, style = photographs
    Path("in").mkdir()
    for number, image in ((1, content), (2, content[:, ::-1]), (10, content[::-1])):
        save_image(f"in/f{number}.png", image)
    save_image("in/tall.png", content.transpose(1, 0, 2))
    save_image("s.png", style)
    save_image("t.png", style[::-1] * 0.5)
    # One picture at a time, unless another --batch follows.
    images = ["--content", "in/f1.png", "in/f2.png", "in/f10.png", "--style", "s.png"]
    return ["--batch=1", *images]


@pytest.fixture
def seen(monkeypatch, without_network):
    """Fake the network and `stylize`; return the record of its calls, and a hook that spoils one.

    The picture is the given start, else the content image, darker by 1/100.
    """
    seen = SimpleNamespace(calls=[], spoil=lambda call: None)

    def stylize(content, styles, *, network, config, start, **options):
        call = SimpleNamespace(content=content, styles=styles, config=config, start=start)
        seen.calls.append(call)
        total = make_schedule(
            content.shape[-3:-1], [style.shape[-3:-1] for style in styles], config
        ).steps
        one = np.ones((1, *content.shape[:-3]), np.float32)
        losses = Losses(one, one, one, *[OrderedDict()] * 3)
        image = jnp.asarray(content if start is None else start) - 0.01
        for step in sorted({1, total}):
            bad = seen.spoil(call) if step == total else None
            found = losses._replace(total=np.inf * one) if bad else losses
            yield Snapshot(step, image, found, not bad)
            if bad:
                return

    monkeypatch.setattr(batch_painter, "stylize", stylize)
    return seen


def pictures(folder="stylized"):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def level(path):
    return load_image(path).mean()


def test_a_batch_is_what_each_picture_is_alone(album, random_params, monkeypatch, capfd):
    """Each picture has its style and its start; one program serves full and partial batches."""
    monkeypatch.setattr(sources, "untrained_params", lambda *_: random_params)
    flags = [*FAST, "--steps=3", "--start=style"]
    before = scale_step.advance._cache_size()
    styles = ["t.png", "s.png"]  # with the style of `album`: s, t, s
    assert run([*album, *styles, "--pairs=zip", "--batch=2", *flags]) == 0
    assert scale_step.advance._cache_size() == before + 1
    printed = capfd.readouterr().out
    assert "size     24x20 px: 3 to paint, 2 at once; scales 24x20: 3\n" in printed
    assert re.findall(r"wrote    (.*) in .* s, (.*)\n", printed) == [
        ("stylized/f1_s.png, stylized/f2_t.png", "2 of 3"),
        ("stylized/f10_s.png", "3 of 3"),
    ]
    assert pictures() == ["f10_s.png", "f1_s.png", "f2_t.png"]
    for content, style in (("f1", "s"), ("f2", "t"), ("f10", "s")):
        job = [f"--content=in/{content}.png", f"--style={style}.png", "--output=alone.png"]
        assert run([*job, *flags]) == 0
        together = load_image(f"stylized/{content}_{style}.png")
        # One level may differ, as float32 sums in another order may round to the next level.
        np.testing.assert_allclose(together, load_image("alone.png"), atol=1.01 / 255)


def test_the_beginning_is_that_of_the_first_scale(photographs):
    config = Config(start="style", min_size=17, start_blend=0.5, precision="float32")
    config = dataclasses.replace(config, style_layers=layers("relu2_1"), content_layers=())
    styles = [photographs[1]]
    config = resolve(config)
    schedule = make_schedule((20, 24), [styles[0].shape[:2]], config)
    start = batch_painter._draw_start(schedule, styles, config)
    assert start.shape == (14, 17, 3)
    looks = [jnp.clip(resample(jnp.asarray(styles[0]), (17, 13)), 0, 1)]
    whole = first_picture(jnp.zeros((14, 17, 3)), looks, None, config)  # the blend is half black
    np.testing.assert_allclose(start, 2 * whole, atol=1e-6)


def test_shapes_are_batches_of_their_own(album, seen):
    assert run([*album, *FAST, "--content=in/tall.png", "--batch=2", "--steps=2"]) == 0
    shapes = [call.content.shape for call in seen.calls]
    assert shapes == [(2, 20, 24, 3), (2, 20, 24, 3), (24, 20, 3)]
    full = seen.calls[1].content
    np.testing.assert_array_equal(full[0], full[1])  # repeated to fill the batch
    assert {call.styles[0].shape for call in seen.calls} == {(2, 24, 19, 3), (24, 19, 3)}
    assert pictures() == ["f1.png", "f10.png", "f2.png", "tall.png"]


def test_a_folder_and_a_pattern(album, seen, capfd):
    Path("in/notes.txt").write_text("no image")
    flags = ["--style", "?.png", "--pairs=product", "--output=out", *FAST, "--steps=2"]
    assert run(["--content=in", "--batch=1", *flags]) == 0
    names = [f"{content}_{style}.png" for style in "st" for content in ("f1", "f2", "f10", "tall")]
    assert pictures("out") == sorted(names)
    wrote = re.findall(r"wrote    out/(\S+) in .*, (\d) of 8\n", capfd.readouterr().out)
    assert wrote == [(name, str(number)) for number, name in enumerate(names, 1)]


def test_without_pairs_styles_are_blended(album, seen):
    assert run([*album, "t.png", "--style-blend=2,1", *FAST, "--steps=2"]) == 0
    assert [len(call.styles) for call in seen.calls] == [2, 2, 2]
    assert seen.calls[0].config.style_blend == (2.0, 1.0)
    assert pictures() == ["f1.png", "f10.png", "f2.png"]


def test_one_content_and_a_folder_of_styles_is_one_picture(album, random_params, monkeypatch):
    monkeypatch.setattr(sources, "untrained_params", lambda *_: random_params)
    given = {}

    def stylize(content, styles, **_):
        given.update(styles=styles)
        raise KeyboardInterrupt

    monkeypatch.setattr("nst_jax.cli.single.stylize", stylize)
    assert run(["--content=in/f1.png", "--style=in", *FAST]) == 130
    assert len(given["styles"]) == 4


def test_finished_pictures_are_skipped(album, seen, capfd):
    job = [*album, *FAST, "--steps=2"]
    assert run(job) == 0
    Path("stylized/f2.png").unlink()
    kept = Path("stylized/f1.png").read_bytes()
    assert run(job) == 0
    assert "1 of 3 to paint, in stylized; skipping 2 finished before" in capfd.readouterr().out
    assert len(seen.calls) == 4
    assert Path("stylized/f1.png").read_bytes() == kept
    assert run([*job, "--conv=auto", "--quiet"]) == 0  # the setting that auto chose
    assert run(job) == 0
    assert "0 of 3 to paint, in stylized; skipping 3 finished before" in capfd.readouterr().out
    assert len(seen.calls) == 4
    assert run([*job, "--overwrite"]) == 0
    assert len(seen.calls) == 7


@pytest.mark.parametrize(
    ("change", "other"),
    [
        (["--steps=3"], "steps 2, not 3"),
        (["--steps=3", "--size=25"], "size 24, not 25 and steps 2, not 3"),
        (["--style=t.png"], "another style image"),
        (["--start-image=t.png"], "no start image"),
        (["--sequence"], "sequence False, not flow auto"),
        (["--bits=16"], "bits 8, not 16"),
        ("in/f2.png", "another content image"),
        ("weights", "another weights"),
        ("stylized/f2.png", "something unknown"),
    ],
)
def test_what_was_made_from_something_else_is_not_finished(
    album, seen, capfd, monkeypatch, change, other
):
    """Such a picture is not painted over, and one line names its provenance."""
    job = [*album, *FAST, "--steps=2"]
    assert run(job) == 0
    calls, flags = len(seen.calls), change if isinstance(change, list) else []
    if change == "weights":
        found = Weights({"conv1_1.bias": np.ones(64, np.float32)}, "vgg19", True, "elsewhere")
        monkeypatch.setattr(batch, "run_weights", lambda _, config: (found, config))
    elif not flags:
        save_image(change, np.zeros((20, 24, 3), np.float32))
    before = {name: Path("stylized", name).read_bytes() for name in pictures()}
    capfd.readouterr()
    all_differ = bool(flags) or change == "weights"
    assert run([*job, *flags]) == (2 if all_differ else 1)
    printed = capfd.readouterr()
    which = "f1.png and 2 more are" if all_differ else "f2.png is"
    assert printed.err == (
        f"nst-jax: error: stylized/{which} there already, made from {other}; give --overwrite to "
        "paint anew, or another --output\n"
    )
    assert "0 of 3 to paint" in printed.out
    assert before == {name: Path("stylized", name).read_bytes() for name in pictures()}
    assert run([*job, *flags, "--overwrite"]) == 0
    assert len(seen.calls) == calls + 3
    assert run([*job, *flags]) == 0
    assert len(seen.calls) == calls + 3


def test_subfolders_are_walked_and_mirrored_in_any_format(album, seen, capfd):
    for name in ("f1.png", "a/f1.png", "a/b/f1.png", "a/f10.png"):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).write_bytes(Path("in", Path(name).name).read_bytes())
    job = ["--content=photos", "--style=s.png", *FAST, "--steps=2", "--format=jpg", "--quality=80"]
    job += ["--save-every=1", "--output=photos/out"]
    assert run(job) == 0
    found = sorted(str(path) for path in Path("photos/out").rglob("*.*"))
    names = ("a/b/f1", "a/f1", "a/f10", "f1")
    ends = (".jpg", "/1.jpg", "/2.jpg")
    assert found == sorted(f"photos/out/{name}{end}" for name in names for end in ends)
    calls = len(seen.calls)
    assert run(job) == 0  # the results in the folder are no contents
    assert len(seen.calls) == calls
    assert run([*job[:-3], "--quality=90", "--output=photos/out"]) == 2
    assert "quality 80, not 90" in capfd.readouterr().err


def test_pictures_have_the_transparency_of_their_contents(album, seen, capfd):
    opaque = (load_image("in/f1.png") * 255).astype(np.uint8)
    for name, alpha in (("a", 0), ("b", 255)):
        level = np.full((*opaque.shape[:2], 1), alpha, np.uint8)
        Image.fromarray(np.dstack([opaque, level])).save(f"in/{name}.png")
    job = ["--content", "in/a.png", "in/b.png", "in/f2.png", "--style=s.png", *FAST, "--steps=1"]
    assert run([*job, "--background=#ff0000"]) == 0
    alphas = [load_extras(f"stylized/{name}.png").alpha for name in ("a", "b", "f2")]
    assert not alphas[0].any()
    assert alphas[1] is alphas[2] is None
    (call,) = seen.calls
    np.testing.assert_array_equal(call.content[0], np.broadcast_to([1, 0, 0], (20, 24, 3)))
    assert run([*job, "--background=blue"]) == 2
    assert "made from background #ff0000, not blue" in capfd.readouterr().err


def test_a_file_in_the_place_of_a_subfolder(album, seen, capfd):
    Path("photos/a").mkdir(parents=True)
    Path("photos/a/f1.png").write_bytes(Path("in/f1.png").read_bytes())
    Path("out").mkdir()
    Path("out/a").touch()
    assert run(["--content=photos", "--style=s.png", *FAST, "--output=out"]) == 2
    assert "--output out/a is a file; name a folder" in capfd.readouterr().err
    assert not seen.calls


def test_a_picture_that_joins_takes_no_other_ones_place(album, seen, capfd):
    """Two files of one name; the file that is first in order came later."""
    for number, image in ((2, "in/f2.png"), (1, "in/f1.png")):
        Path(f"cam/{number}").mkdir(parents=True)
        Path(f"cam/{number}/IMG.png").write_bytes(Path(image).read_bytes())
        assert run(["--content=cam/**/*.png", "--style=s.png", *FAST, "--steps=2"]) == 0
    assert pictures() == ["1-IMG.png", "2-IMG.png", "IMG.png"]
    for name, source in (("1-IMG", "f1"), ("2-IMG", "f2"), ("IMG", "f2")):
        wanted = load_image(f"in/{source}.png", size=24) - 0.01
        np.testing.assert_allclose(
            load_image(f"stylized/{name}.png"), np.clip(wanted, 0, 1), atol=0.6 / 255
        )


def test_bad_files_do_not_stop_the_others(album, seen, capfd):
    Path("in/f2.png").write_bytes(b"no image")
    save_image("in/thin.png", np.zeros((2, 200, 3), np.float32))
    save_image("low.png", np.zeros((1, 200, 3), np.float32))
    save_image("in/cut.jpg", np.zeros((37, 45, 3), np.float32))
    Path("in/cut.jpg").write_bytes(Path("in/cut.jpg").read_bytes()[:-20])  # with a sound header
    flags = ["t.png", "missing.png", "low.png", "--pairs=product", "--batch=9", *FAST, "--steps=2"]
    flags += ["--content", "in/thin.png", "in/cut.jpg"]
    assert run([*album, *flags, "--style-layers=relu2_1"]) == 1
    error = capfd.readouterr().err
    assert error.count("nst-jax: error: ") == error.count("\n") == 5  # one for each file
    for name in ("in/f2.png", "in/thin.png", "in/cut.jpg", "missing.png", "low.png"):
        assert name in error
    assert pictures() == ["f10_s.png", "f10_t.png", "f1_s.png", "f1_t.png"]


def test_only_bad_files(album, seen, capfd):
    for name in ("in/f1.png", "in/f2.png", "in/f10.png"):
        Path(name).write_bytes(b"no image")
    assert run([*album, *FAST]) == 2
    printed = capfd.readouterr()
    assert printed.err.count("\n") == 3
    assert not Path("stylized").exists()
    assert not seen.calls


@pytest.mark.parametrize("fault", ["diverges", "out of memory"])
def test_what_one_picture_spoils_is_painted_one_by_one(album, seen, capfd, fault):
    bad = load_image("in/f2.png", size=24)

    def spoil(call):
        spoiled = (np.asarray(call.content) == bad).all(axis=(-3, -2, -1)).any()
        if spoiled and fault == "out of memory":
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 1 byte")
        return spoiled

    seen.spoil = spoil
    assert run([*album, *FAST, "--steps=2", "--batch=3"]) == 1
    assert [call.content.ndim for call in seen.calls] == [4, 3, 3, 3]
    assert pictures() == ["f1.png", "f10.png"]
    together, error = capfd.readouterr().err.splitlines()
    assert "3 pictures at once; going on with each alone" in together
    assert error.startswith("nst-jax: error: stylized/f2.png: ")
    rate = f"give --on-nan=backoff, or a smaller --learning-rate than {Config().learning_rate}"
    said = rate if fault == "diverges" else "a smaller --size"
    assert error.endswith(said)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_stopped_it_leaves_what_is_finished(album, seen, capfd, number, code):
    job = [*album, *FAST, "--steps=2"]
    assert run([*job, "--output=whole"]) == 0
    seen.calls.clear()
    before = batch_painter.stylize

    def stylize(*images, **options):
        for snapshot in before(*images, **options):
            if len(seen.calls) == 2:
                signal.raise_signal(number)
            yield snapshot

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_painter, "stylize", stylize)
        assert run(job) == code
    error = capfd.readouterr().err
    assert f"stopped by {number.name}: 1 of 3 pictures are done; the same command goes on" in error
    assert pictures() == ["f1.png"]
    assert len(seen.calls) == 2
    assert run(job) == 0
    assert pictures() == ["f1.png", "f10.png", "f2.png"]
    for name in pictures():
        assert Path("stylized", name).read_bytes() == Path("whole", name).read_bytes()


@pytest.mark.parametrize("how", ["--batch=2", "--sequence"])
def test_the_picture_in_progress_goes_on_from_its_checkpoint(
    album, random_params, monkeypatch, capfd, how
):
    pytest.importorskip("orbax.checkpoint")
    monkeypatch.setattr(sources, "untrained_params", lambda *_: random_params)
    job = [*album[1:], *FAST, "--steps=5", how]
    kept = [*job, "--checkpoint=c"]
    assert run([*job, "--output=whole"]) == 0
    right, calls, stop = batch_painter.stylize, [], [1]

    def stylize(*images, **options):
        calls.append(1)
        for snapshot in right(*images, **options):
            if len(calls) == stop[0] and snapshot.step == 2:
                signal.raise_signal(signal.SIGTERM)
            yield snapshot

    with monkeypatch.context() as patch:
        patch.setattr(batch_painter, "stylize", stylize)
        assert run(kept) == 143
        assert [path.split("-")[0] for path in os.listdir("c")] == ["f1"]
        capfd.readouterr()
        assert run([*kept, "--content-weight=9"]) == 2
        assert (
            "belongs to another job, made from content-weight 3, not 9; " in capfd.readouterr().err
        )
        calls.clear()
        stop[0] = 2
        assert run(kept) == 143
    name = "f10" if how == "--batch=2" else "f2"
    assert f"{name}.png" not in pictures()
    assert [path.split("-")[0] for path in os.listdir("c")] == [name]
    capfd.readouterr()
    assert run(kept) == 0
    assert f"resume   {name} from step 2\n" in capfd.readouterr().out
    assert os.listdir("c") == []
    # A batch of which a picture is missing is painted again with the others.
    Path("stylized/f2.png").unlink()
    assert run(kept) == 0
    for name in pictures():
        assert Path("stylized", name).read_bytes() == Path("whole", name).read_bytes()
    assert pictures() == ["f1.png", "f10.png", "f2.png"]
    assert os.listdir("c") == []


def test_frames_start_from_the_result_before(album, seen):
    job = [*album, "t.png", "--pairs=product", *FAST, "--steps=2", "--first-steps=5"]
    job += ["--min-size=17", "--sequence", "--flow=none"]
    assert run(job) == 0
    names = ["f1", "f2", "f10"]
    starts = [call.start for call in seen.calls]
    assert [start is None for start in starts] == [True, False, False] * 2  # for each style
    for i, name in enumerate(names[:2]):
        np.testing.assert_array_equal(starts[i + 1], load_image(f"stylized/{name}_s.png"))
    counts = [make_schedule((20, 24), [], call.config).steps for call in seen.calls]
    assert counts == [7, 2, 2] * 2  # at the last scale only
    # A run that continues from the files gives the same results.
    before = {name: Path("stylized", name).read_bytes() for name in pictures()}
    for name in ("f2_s.png", "f10_t.png"):
        Path("stylized", name).unlink()
    assert run(job) == 0
    assert [call.start is None for call in seen.calls[6:]] == [False, False]
    assert before == {name: Path("stylized", name).read_bytes() for name in pictures()}


def test_a_bad_frame_is_left_out(album, seen):
    Path("in/f2.png").write_bytes(b"no image")
    assert run([*album, *FAST, "--steps=2", "--sequence", "--flow=none"]) == 1
    assert pictures() == ["f1.png", "f10.png"]
    np.testing.assert_array_equal(seen.calls[1].start, load_image("stylized/f1.png"))


def test_a_sequence_painted_anew_does_not_start_from_old_frames(album, seen):
    job = [*album, *FAST, "--steps=2", "--sequence", "--start-image=t.png", "--flow=none"]
    assert run(job) == run([*job, "--overwrite"]) == 0
    given = load_image("t.png", shape=(20, 24))
    for first, second in ((0, 1), (3, 4)):
        np.testing.assert_array_equal(seen.calls[first].start, given)
        assert not np.array_equal(seen.calls[second].start, given)


def test_pictures_on_the_way_have_folders_of_their_own(album, seen):
    assert run([*album, *FAST, "--steps=20", "--save-every=10", "--batch=2"]) == 0
    assert pictures() == ["f1", "f1.png", "f10", "f10.png", "f2", "f2.png"]
    assert pictures("stylized/f1") == ["20.png"]


def test_killed_beside_a_picture_it_writes_both_again(album, seen, monkeypatch):
    job = [*album, *FAST, "--steps=2", "--json"]

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(batch_painter, "save_beside", stop)
        assert run(job) == 130
    assert pictures() == []
    assert run(job) == 0
    names = ["f1.png", "f10.png", "f2.png"]
    assert pictures() == sorted([*names, *(f"{name}.json" for name in names)])


def test_a_picture_that_cannot_be_written_is_not_lost(album, seen, capfd, monkeypatch):
    right = save_image

    def full_disk(path, image, **note):
        if Path(path) == Path("stylized/f2.png"):
            raise OSError(28, "No space left on device")
        right(path, image, **note)

    monkeypatch.setattr("nst_jax.cli.console.save_image", full_disk)
    assert run([*album, *FAST, "--steps=2", "--quiet"]) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    rescued = Path(re.search(r"the picture is (\S+)", error)[1])
    assert load_image(rescued).shape == (20, 24, 3)
    shutil.rmtree(rescued.parent)
    assert pictures() == ["f1.png", "f10.png"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--output=in"], "holds the input image in/f1.png"),
        (["--output=out.png"], "looks like one picture"),
        (["--output=no/where"], "create the folder"),
        (["--content=in/*.gif"], "no file matches 'in/*.gif'"),
        (["--pairs=all"], "invalid choice: 'all' (choose from"),
        (["--pairs=zip", "--style", "t.png"], "3 contents for 2 styles"),
        (["--pairs=zip", "--style-blend=1"], "leave one of the two out"),
        (["--style-blend=1,2"], "style-blend has 2 shares, but the number of styles is 1"),
        (["--batch=0"], "'0' is not a whole number of at least 1"),
        (["--batch=2", "--optimizer=lbfgs"], "the optimizer lbfgs takes one picture at a time"),
        (["--batch=2", "--picture=best"], "the picture best takes one picture at a time"),
        (["--batch=2", "--sequence"], "--sequence takes one picture at a time"),
        (["--start-image=missing.png"], "missing.png"),
    ],
)
def test_mistakes_are_one_line(album, seen, capfd, flags, said):
    assert run([*album, *FAST, *flags]) == 2
    error = capfd.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("stylized").exists()
