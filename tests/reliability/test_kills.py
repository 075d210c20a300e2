"""The commands as real processes that are killed at any moment, on a full disk, without folders."""

import contextlib
import gzip
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.numpy
from PIL import Image

from fast import xla_flags
from nst_jax import save_image
from nst_jax.weights.converted_file import load_weights
from package import ROOT

pytest.importorskip("orbax.checkpoint", reason="not installed: pip install '.[checkpoint]'")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
SHALLOW = ("--style-layers=relu1_1", "--content-layers=relu1_1", "--size=40", "--quiet")
KEPT = ("--checkpoint=c", "--checkpoint-seconds=0")


@pytest.fixture(scope="module")
def images(tmp_path_factory, photographs, untrained_file):
    """A folder with a style, contents of two shapes, and weights."""
    folder = tmp_path_factory.mktemp("images")
    content, style = photographs
    (folder / "in").mkdir()
    save_image(folder / "style.png", style)
    for number, image in enumerate((content, content[::-1], content[:, ::-1])):
        save_image(folder / f"in/{number}.png", image)
    save_image(folder / "in/tall.png", content.transpose(1, 0, 2))
    shutil.copy(untrained_file, folder / "vgg19.safetensors")
    return folder


# Checkpoints and pictures on the way come often.
STEPS = ("--first-steps=20", "--steps=20", "--save-every=6")


@pytest.fixture
def one(images):
    """The flags of a picture of two scales."""
    given = [f"--content={images}/in/0.png", f"--style={images}/style.png", "--output=o.png"]
    return [*given, f"--weights={images}/vgg19.safetensors", *SHALLOW, *STEPS, "--min-size=24"]


@pytest.fixture
def many(images):
    """The flags of four pictures of two shapes, in batches of two."""
    given = [f"--content={images}/in", f"--style={images}/style.png", "--output=o", "--json"]
    given += [f"--weights={images}/vgg19.safetensors", "--batch=2"]
    return [*given, *SHALLOW, *STEPS, "--min-size=0"]


class Command:
    """A command that is run again and again in a folder of its own.

    Attributes:
      seconds: that it takes where nobody ends it.
    """

    def __init__(self, folder, flags, *, program="main.py", **environment):
        self.folder, self.flags, self.program = folder, flags, program
        # A cache of its own, so that no other test meets what a kill leaves there.
        cache = folder.parent / "cache"
        self.environment = {"NST_JAX_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
        self.environment |= {"XLA_FLAGS": xla_flags(), **environment}
        self.seconds, self.kills, self.said = 0.0, 0, ""
        folder.mkdir(exist_ok=True)

    def start(self):
        return subprocess.Popen(
            [sys.executable, str(ROOT / self.program), *self.flags],
            cwd=self.folder,
            env={name: x for name, x in os.environ.items() if "CACHE" not in name}
            | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self):
        """Run to the end; return what was said."""
        began = time.monotonic()
        with self.start() as process:
            self.said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, self.said
        self.seconds = time.monotonic() - began
        return self.said

    def kill(self, number, after):
        """Send a signal after some seconds, unless the command has ended; return whether it has."""
        with self.start() as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after)
            ended = process.poll() is not None
            process.send_signal(number)
            self.said = process.communicate(timeout=120)[0]
        codes = {0} if ended else {0, -number, 128 + number}
        if number == signal.SIGINT and after < self.seconds / 2:
            # While Python imports libraries, Ctrl-C ends it in their way: a traceback, or a crash.
            codes |= {1, -signal.SIGABRT, -signal.SIGSEGV}
        assert process.returncode in codes, self.said
        self.kills += not ended
        return ended


def files(folder):
    """Return the content of each file under its final name; the checkpoints are apart."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and parts[0] != "c" and not any(x.startswith(".") for x in parts):
            found["/".join(parts)] = content(path)
    return found


def content(path):
    """Return the bytes of a file; safetensors orders its metadata by chance."""
    whole = path.read_bytes()
    if path.suffix != ".safetensors":
        return whole
    end = 8 + int.from_bytes(whole[:8], "little")
    return json.dumps(json.loads(whole[8:end]), sort_keys=True).encode() + whole[end:]


def check_whole(folder):
    """Open every file under its final name."""
    for path in map(folder.joinpath, files(folder)):
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".safetensors":
            load_weights(path)
        elif path.suffix == ".json":
            assert path.read_text().endswith("}\n")


def in_one_go(command, *, twice):
    """Return the files of an uninterrupted run of the same command in another folder."""
    whole = Command(command.folder.with_name("whole"), command.flags, program=command.program)
    whole.environment = command.environment
    whole.finish()
    if twice:  # with compiled programs, for the time that it takes
        whole.finish()
    command.seconds = whole.seconds
    check_whole(whole.folder)
    return files(whole.folder)


def check_same(found, wanted):
    assert found.keys() == wanted.keys()
    assert [name for name in found if found[name] != wanted[name]] == []


def kill_and_resume(command, rng, count):
    """Kill a command at least `count` times at any moment; compare the ends with one run in one go.

    It is killed up to three times before it may come to its end.
    """
    wanted = in_one_go(command, twice=count > 9)
    longest = command.seconds
    while command.kills < count:
        for _ in range(3):
            if command.kill(rng.choice(SIGNALS), rng.uniform(0, longest)):
                break
            check_whole(command.folder)
            assert "cannot be read" not in command.said, command.said
        assert "cannot be read" not in command.finish(), command.said
        check_same(files(command.folder), wanted)
        shutil.rmtree(command.folder)
        command.folder.mkdir()


@pytest.mark.parametrize("count", [3, pytest.param(45, marks=pytest.mark.slow)])
def test_one_picture(count, one, tmp_path, record_property):
    """A run that is killed at any moment goes on, and ends with the same bytes."""
    quick = ["--min-size=0"] if count < 10 else []  # one scale compiles in half the time
    command = Command(tmp_path / "run", [*one, *KEPT, *quick])
    kill_and_resume(command, random.Random(count), count)
    record_property("cases", command.kills)


@pytest.mark.slow
def test_many_pictures(many, tmp_path, record_property):
    """Many pictures that are killed at any moment go on, and end with the same bytes."""
    command = Command(tmp_path / "run", [*many, *KEPT])
    kill_and_resume(command, random.Random(1), 40)
    record_property("cases", command.kills)


@pytest.mark.slow
def test_conversion(state, tmp_path, record_property):
    """A conversion that is killed at any moment leaves whole weights or none."""
    safetensors.numpy.save_file(state, tmp_path / "vgg19.safetensors")
    flags = [f"--source={tmp_path / 'vgg19.safetensors'}", "--output=w.safetensors"]
    command = Command(tmp_path / "run", flags, program="convert_weights.py")
    kill_and_resume(command, random.Random(2), 15)
    record_property("cases", command.kills)


@pytest.mark.slow
def test_compiled_programs(one, tmp_path, record_property):
    """A run that is killed while it compiles leaves no program that the next run falls over."""
    command, cache = Command(tmp_path / "run", one), tmp_path / "cache"
    wanted = in_one_go(command, twice=False)  # it compiles all
    rng = random.Random(3)
    while command.kills < 9:
        shutil.rmtree(cache)
        for _ in range(3):
            command.kill(rng.choice(SIGNALS), rng.uniform(0.3, 1) * command.seconds)
            check_programs(cache, finished=False)
        whole = command.seconds
        assert command.finish() == ""
        command.seconds = whole
        check_same(files(command.folder), wanted)
        check_programs(cache, finished=True)
    record_property("cases", command.kills)


def check_programs(cache, *, finished):
    """Read every compiled program under its final name.

    JAX itself writes under the final name. Its next run knows by a second file what is whole.
    """
    for path in cache.rglob("*"):
        if path.parent.name == "ready" and not path.name.startswith("."):
            gzip.decompress(path.read_bytes())
        elif path.name.endswith("-cache") and finished:
            assert path.with_name(path.name.removesuffix("-cache") + "-atime").exists()


@contextlib.contextmanager
def disk(folder, size):
    """Make a small disk of a folder, as only root can."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_full_disk(one, tmp_path, record_property):
    """On a disk that is full all files stay whole, and with room again the run goes on."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = Command(tmp_path / "run", [*one, *KEPT], TMPDIR=str(temporary))
    wanted, rng = in_one_go(command, twice=True), random.Random(4)
    command.folder.rmdir()
    said = set()
    for _ in range(10):
        with disk(command.folder, "2m"):
            ballast = command.folder / ".ballast"
            with command.start() as process:
                time.sleep(rng.uniform(0.2, 1) * command.seconds)
                with contextlib.suppress(OSError):
                    ballast.write_bytes(bytes(2**21))
                os.truncate(ballast, max(0, ballast.stat().st_size - rng.randrange(2**14)))
                command.said = process.communicate(timeout=120)[0]
            assert process.returncode in (0, 1, 2), command.said
            assert "Traceback" not in command.said, command.said
            said |= set(re.findall(r"the checkpoint|cannot save|No space", command.said))
            check_whole(command.folder)
            for rescued in re.findall(r"the picture is (\S+)", command.said):
                assert Path(rescued).read_bytes() == wanted["o.png"]
            ballast.unlink()
            assert command.finish() == ""
            check_same(files(command.folder), wanted)
        shutil.rmtree(command.folder)
    assert said == {"the checkpoint", "cannot save", "No space"}
    record_property("cases", 10)


@pytest.mark.slow
def test_files_that_may_not_grow(one, tmp_path, record_property):
    """Where no file may be large enough, a run says so, and goes on once it may."""
    temporary = tmp_path / "temporary"  # the picture may not grow there either
    temporary.mkdir()
    command = Command(tmp_path / "run", [*one, *KEPT], TMPDIR=str(temporary))
    wanted, rng = in_one_go(command, twice=False), random.Random(5)
    for _ in range(4):
        size = rng.randrange(2**9, 2**13)
        with command.start() as process:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
            command.said = process.communicate(timeout=120)[0]
        assert process.returncode in (0, 1, 2), command.said
        assert "Traceback" not in command.said, command.said
        assert "File too large" in command.said
        check_whole(command.folder)
        assert "cannot" not in command.finish(), command.said
        check_same(files(command.folder), wanted)
        shutil.rmtree(command.folder)
        command.folder.mkdir()
    record_property("cases", 4)


@contextlib.contextmanager
def read_only(folder):
    """Let nobody write into a folder; permissions would not keep root out."""
    done = subprocess.run(["chattr", "-R", "+i", folder], capture_output=True)
    if done.returncode:
        folder.chmod(0o500)
        if os.access(folder, os.W_OK):
            folder.chmod(0o700)
            pytest.skip(f"no folder can be made read-only here: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-R", "-i", folder], capture_output=True)
        folder.chmod(0o700)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["read-only", "removed"])
def test_folder_of_checkpoints(how, one, tmp_path, record_property):
    """A run whose checkpoint folder becomes read-only or is removed ends with the same bytes."""
    command = Command(tmp_path / "run", [*one, *KEPT])
    wanted, rng = in_one_go(command, twice=True), random.Random(6)
    for _ in range(6):
        ended = contextlib.ExitStack()
        with ended, command.start() as process:
            kept = command.folder / "c"
            while not (kept / "job.json").exists() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.4) * command.seconds)
            if how == "removed":
                shutil.rmtree(kept, ignore_errors=True)
            else:
                ended.enter_context(read_only(kept))
            command.said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, command.said
        assert "Traceback" not in command.said, command.said
        check_same(files(command.folder), wanted)
        assert command.finish() == ""
        check_same(files(command.folder), wanted)
        shutil.rmtree(command.folder)
        command.folder.mkdir()
    record_property("cases", 6)


@pytest.mark.slow
def test_folder_of_pictures(many, tmp_path, record_property):
    """Pictures whose folder is removed on the way are named, and painted by the same command."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = Command(tmp_path / "run", [*many, *KEPT], TMPDIR=str(temporary))
    wanted, rng = in_one_go(command, twice=True), random.Random(7)
    for _ in range(6):
        with command.start() as process:
            time.sleep(rng.uniform(0.4, 1) * command.seconds)
            shutil.rmtree(command.folder / "o", ignore_errors=True)
            command.said = process.communicate(timeout=120)[0]
        assert process.returncode in (0, 1), command.said
        assert "Traceback" not in command.said, command.said
        check_whole(command.folder)
        command.finish()
        check_same(files(command.folder), wanted)
        shutil.rmtree(command.folder)
        command.folder.mkdir()
    record_property("cases", 6)
