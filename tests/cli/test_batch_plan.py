"""Which files a command names, how they are paired, named, and grouped into batches."""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nst_jax import Config, InputError, layers, load_image, save_image
from nst_jax.cli.batch_plan import batch_size, batches, plan_job
from nst_jax.cli.inputs import expand, is_collection, subfolders
from nst_jax.cli.names import check_folder, name_pictures, pair
from nst_jax.cli.options import JobOptions
from nst_jax.devices.backend import resolve
from nst_jax.io.formats import HEIC_SUFFIXES
from nst_jax.transfer.estimate import Need
from nst_jax.transfer.schedule import make_schedule, style_shape

NAMES = st.lists(st.sampled_from(["a", "A", "a-2", "b", "a_b", "b_c", "c"]), min_size=1, max_size=6)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "f10.png",
        "f2.JPG",
        "f1.webp",
        ".f3.png",
        "notes.txt",
        "f4.png.part",
        "deep/x.png",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return "photos"


def files(given, **options):
    """Expand paths, where no warning is expected."""
    said = []
    found = expand(given, **options, warn=said.append)
    assert said == []
    return found


@pytest.fixture(params=["with pillow-heif", "without"])
def heic(request, monkeypatch):
    for suffix in HEIC_SUFFIXES:
        monkeypatch.delitem(Image.EXTENSION, suffix, raising=False)
    if request.param == "without":
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
    else:
        pytest.importorskip("pillow_heif")
    return request.param != "without"


def test_what_is_passed_over_in_a_folder_is_said(tmp_path, monkeypatch, heic):
    monkeypatch.chdir(tmp_path)
    Path("a/folder").mkdir(parents=True)
    for name in (
        "x.png",
        "b.HEIC",
        "c.heif",
        "notes.txt",
        "Thumbs.db",
        "LICENSE",
        "d.txt",
        ".e.txt",
    ):
        Path("a", name).touch()
    said = []
    found = expand(["a", "a/x.png"], role="style", warn=said.append)
    (line,) = said
    start, _, counts = line.partition("'a': ")
    assert start == "--style: passed over in the folder "
    counts, _, advice = counts.partition(" (")
    others = {"2 .txt", "1 .db", "1 without a suffix"}
    if heic:
        assert found == ["a/b.HEIC", "a/c.heif", "a/x.png", "a/x.png"]
        assert set(counts.split(", ")) == others
        assert advice == ""
    else:
        assert found == ["a/x.png", "a/x.png"]
        assert set(counts.split(", ")) == others | {"1 .heic", "1 .heif"}
        assert advice == "HEIC takes pillow-heif: pip install '.[formats]')"


def test_a_folder_of_what_cannot_be_read_says_so(tmp_path):
    Path(tmp_path, "a.mp4").touch()
    with pytest.raises(InputError, match=r"has no image file, but 1 \.mp4; give image files"):
        files([str(tmp_path)], role="content")


def test_a_folder_is_its_images_in_natural_order(folder):
    found = expand([folder], role="content", warn=lambda line: None)
    assert found == ["photos/f1.webp", "photos/f2.JPG", "photos/f10.png"]


def test_a_folder_that_cannot_be_read_is_one_line(folder, monkeypatch):
    def scandir(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "scandir", scandir)  # root may read every folder
    said = "^--content: cannot read the folder 'photos': Permission denied$"
    with pytest.raises(InputError, match=said):
        files([folder], role="content")


def test_a_pattern_is_what_it_matches_in_natural_order(folder):
    found = files(["photos/f*.[pwJ]*"], role="content")
    assert found == ["photos/f1.webp", "photos/f2.JPG", "photos/f4.png.part", "photos/f10.png"]
    assert files(["**/*.png"], role="style") == ["photos/deep/x.png", "photos/f10.png"]


def test_files_stay_in_their_order_and_may_be_missing(folder):
    given = ["z.png", "photos/f10.png", "a.png"]
    assert files(given, role="content") == given
    assert not any(map(is_collection, given))
    Path("[1].png").touch()  # an existing file is no pattern
    assert files(["[1].png"], role="content") == ["[1].png"]
    assert is_collection(folder)
    assert is_collection("photos/*")


@pytest.mark.parametrize("path", ["empty", "photos/*.gif", "photos/dee?"])
def test_a_collection_without_files_is_an_error(folder, path):
    Path("empty").mkdir()
    with pytest.raises(InputError, match="give image files, folders"):
        files([path], role="style")


def test_pairs():
    assert pair(["a", "b"], ["s", "t"], None) == [[("a", ("s", "t")), ("b", ("s", "t"))]]
    assert pair(["a", "b"], ["s", "t"], "product") == [
        [("a", ("s",)), ("b", ("s",))],
        [("a", ("t",)), ("b", ("t",))],
    ]
    assert pair(["a", "b"], ["s", "t"], "zip") == [[("a", ("s",)), ("b", ("t",))]]
    assert pair(["a", "b"], ["s"], "zip") == [[("a", ("s",)), ("b", ("s",))]]
    assert pair(["a"], ["s", "t"], "zip") == [[("a", ("s",)), ("a", ("t",))]]


@given(st.integers(1, 5), st.integers(1, 5))
def test_zip_takes_equal_lengths_or_one_for_all(m, n):
    contents, styles = [f"c{i}" for i in range(m)], [f"s{i}" for i in range(n)]
    if m == n or 1 in (m, n):
        (run,) = pair(contents, styles, "zip")
        assert len(run) == max(m, n)
        assert {content for content, _ in run} == set(contents)
        assert {style for _, (style,) in run} == set(styles)
    else:
        with pytest.raises(InputError, match=f"{m} contents for {n} styles"):
            pair(contents, styles, "zip")


@given(NAMES, NAMES, st.sampled_from([None, "product"]))
def test_no_picture_takes_the_name_of_another(contents, styles, how):
    contents = [f"{i}/{name}.png" for i, name in enumerate(contents)]
    styles = [f"{i}/{name}.jpg" for i, name in enumerate(styles)]
    runs = pair(contents, styles, how)
    pictures = name_pictures(runs, Path("out"))
    assert [(p.content, p.styles) for p in pictures] == [pair for run in runs for pair in run]
    assert len({str(p.output).casefold() for p in pictures}) == len(pictures)
    assert all(p.output.parent == Path("out") and p.output.suffix == ".png" for p in pictures)
    assert pictures == name_pictures(runs, Path("out"))
    for p in pictures:
        parts = [Path(p.content).stem, *([Path(p.styles[0]).stem] if how and styles[1:] else [])]
        assert all(part in p.output.stem for part in parts)


def test_names():
    def names(contents, styles, how):
        return [p.output.name for p in name_pictures(pair(contents, styles, how), Path())]

    assert names(["x/a.png", "b.1.jpg"], ["s.png"], "product") == ["a.png", "b.1.png"]
    assert names(["a.png"], ["s.png", "t.png"], None) == ["a.png"]
    assert names(["a.png"], ["s.png", "t.png"], "zip") == ["a_s.png", "a_t.png"]
    # Labels take folders, and suffixes within one folder, in any order of the files.
    files = ["cam/1/IMG.png", "cam/2/IMG.png", "cam/b.png"]
    assert names(files, ["s"], None) == ["1-IMG.png", "2-IMG.png", "b.png"]
    assert names(files[::-1], ["s"], None) == ["b.png", "2-IMG.png", "1-IMG.png"]
    assert names(["x/a.png", "x/A.jpg", "y/a.png"], ["s"], None) == [
        "a-png.png",
        "A-jpg.png",
        "y-a.png",
    ]
    assert names(["1/x/a", "2/x/a", "2/y/a"], ["s"], None) == ["1-x-a.png", "2-x-a.png", "y-a.png"]
    assert names(["a.png", "b.png"], ["x/s.png", "y/s.png"], "zip") == ["a_x-s.png", "b_y-s.png"]
    assert names(["a.png", "./a.png"], ["s"], None) == ["a.png", "a-2.png"]  # two paths of one file


def test_the_subfolders_of_a_folder_are_walked_where_that_is_asked_for(folder):
    for name in ("deep/.x.png", ".hidden/x.png", "out/x.png", "deep/er/y.png", "deep/z.txt"):
        Path(folder, name).parent.mkdir(exist_ok=True)
        Path(folder, name).touch()
    said = []
    found = expand(
        [folder], role="content", warn=said.append, deep=True, without=Path("photos/out")
    )
    names = ["deep/er/y.png", "deep/x.png", "f1.webp", "f2.JPG", "f10.png"]
    assert sorted(found) == sorted(f"photos/{name}" for name in names)
    assert len(said) == 1
    assert "2 .txt" in said[0]
    assert subfolders(found, [folder]) == {
        "photos/deep/er/y.png": "deep/er",
        "photos/deep/x.png": "deep",
    }
    assert subfolders(["a.png", "photos/f1.webp"], ["a.png", folder]) == {}
    assert subfolders(["deep/x.png", "f1.webp"], ["."]) == {"deep/x.png": "deep"}


def test_pictures_lie_in_the_subfolders_of_their_contents():
    contents = ["p/a.jpg", "p/x/a.jpg", "p/x/a.png", "p/x/b.jpg", "p/y/a.jpg"]
    pictures = name_pictures(
        pair(contents, ["s.png"], None),
        Path("out"),
        suffix=".tif",
        subfolders=subfolders(contents, ["p"]) | {path: path[2] for path in contents[1:]},
    )
    names = ["a.tif", "x/a-jpg.tif", "x/a-png.tif", "x/b.tif", "y/a.tif"]
    assert [str(p.output) for p in pictures] == [f"out/{name}" for name in names]


@given(st.lists(st.sampled_from("abc"), max_size=20), st.integers(1, 5))
def test_batches_hold_everything_once_and_one_key_each(keys, most):
    found = batches(keys, lambda key: most if key == "a" else 1)
    assert sorted(number for batch in found for number in batch.members) == [*range(len(keys))]
    sizes = {}
    for members, size in found:
        (key,) = {keys[number] for number in members}
        assert list(members) == sorted(members)
        assert 0 < len(members) <= size <= (most if key == "a" else 1)
        sizes.setdefault(key, []).append(size)
    assert [members[0] for members, _ in found] == sorted(members[0] for members, _ in found)
    for key, each in sizes.items():
        assert len(set(each)) == 1  # one program for each key
        assert sum(each) - keys.count(key) < len(each)  # less than one repeat in each batch


def test_a_cpu_takes_few_small_pictures_and_others_what_fits(monkeypatch):
    def size(devices=1, side=64, **settings):
        config = resolve(Config(precision="float32", **settings))
        plan = make_schedule((side, side), [(40, 40)], config).last
        return batch_size(plan, config=config, devices=devices)

    monkeypatch.setattr("nst_jax.transfer.estimate.free_memory", lambda: Need(10**11, 10**11))
    assert [size(side=side) for side in (64, 256, 257)] == [4, 4, 1]
    monkeypatch.setattr("nst_jax.transfer.estimate.free_memory", lambda: Need(10**9, 10**9))
    assert [size(side=side) for side in (32, 256)] == [4, 1]

    class GPU:
        platform = "gpu"

    def need(plan, *, config, batch):
        return Need(1000 + 300 * batch, 10)

    monkeypatch.setattr("nst_jax.cli.batch_plan.default_device", GPU)
    monkeypatch.setattr("nst_jax.cli.batch_plan.need", need)
    for free, expected in ((10**6, 8), (1000 + 300 * 5, 5), (1, 1)):
        monkeypatch.setattr("nst_jax.cli.batch_plan.free_memory", lambda free=free: Need(free, 0))
        assert size() == expected
        assert size(devices=4) == 4 * expected
    assert size(optimizer="lbfgs") == 1
    assert size(picture="best") == 1


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("photos", "holds the input image photos/f10.png"),
        ("link", "holds the input image photos/f10.png"),
        ("out.png", "looks like one picture"),
        ("file", "is a file"),
        ("a/b", "create the folder"),
    ],
)
def test_folders_that_pictures_cannot_go_to(folder, output, said):
    Path("file").touch()
    os.symlink(folder, "link")
    before = sorted(os.listdir())
    with pytest.raises(InputError, match=said):
        check_folder(Path(output), ["photos/f10.png"])
    assert sorted(os.listdir()) == before


def test_a_folder_is_made_only_when_there_is_a_picture(folder):
    check_folder(Path("new"), ["photos/f10.png"])
    assert not Path("new").exists()
    check_folder(Path(), ["photos/f10.png"])


@pytest.mark.parametrize(
    ("size", "shapes"),
    [
        ("original", [(30, 40), (60, 20)]),
        ("80x60", [(60, 80), (60, 20)]),
        ("0.0012MP", [(30, 40), (60, 20)]),
        (20, [(15, 20), (20, 7)]),
    ],
)
def test_each_content_has_its_own_size(tmp_path, size, shapes):
    contents = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for path, shape in zip(contents, [(30, 40), (60, 20)], strict=True):
        save_image(path, np.zeros((*shape, 3), np.float32))
    options = JobOptions(content=contents, style=contents[:1], output=str(tmp_path / "out"))
    config = Config(size=size, style_layers=layers("relu2_1"), content_layers=())
    assert [each.shape for each in plan_job(options, config, warn=print).todo] == shapes


@pytest.mark.parametrize("fit", ["longest", "shortest", "stretch"])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_styles_have_the_shape_that_is_foreseen(tmp_path, photographs, fit, scale):
    """Pictures are grouped by the size before any image is loaded."""
    shallow = {"style_layers": layers("relu2_1"), "content_layers": ()}
    config = Config(size=40, style_fit=fit, style_scale=scale, **shallow)
    content, style, output = (str(tmp_path / name) for name in ("c.png", "style.png", "out"))
    save_image(content, np.zeros((30, 40, 3), np.float32))
    save_image(style, photographs[1])
    options = JobOptions(content=[content], style=[style], output=output)
    (foreseen,) = plan_job(options, config, warn=print).todo[0].schedule.last.styles
    loaded = load_image(style, shape=foreseen)
    assert loaded.shape[:2] == style_shape(photographs[1].shape[:2], (30, 40), config)
    assert load_image(tmp_path / "style.png").shape == photographs[1].shape
