"""Checkpoints: what is restored is what was saved, also when something was in the way."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nst_jax import Minimizer
from nst_jax.errors import InputError
from nst_jax.io import checkpoint
from nst_jax.optimizers import averaging
from nst_jax.optimizers.adam import torch_adam
from nst_jax.optimizers.lbfgs import torch_lbfgs
from package import ROOT, TESTS_PATH

pytest.importorskip("orbax.checkpoint", reason="not installed: pip install '.[checkpoint]'")

JOB = {"size": 64, "content image": ["01ab"], "style image": ["23cd"], "layers": ("a", "b")}


class Folder:
    """A folder, and what was said of its checkpoints."""

    def __init__(self, path):
        self.path, self.complaints = path, []

    def store(self, **changes):
        return checkpoint.CheckpointStore(
            self.path, fingerprint={**JOB, **changes}, warn=self.complaints.append
        )

    def steps(self):
        return sorted(int(name) for name in os.listdir(self.path) if name.isdecimal())

    def files(self, step, part="state"):
        paths = [x for x in (self.path / str(step) / part).rglob("*") if x.is_file()]
        return sorted(paths, key=lambda path: path.stat().st_size)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "a" / "checkpoints")


def numbers(value):
    return {"x": jnp.full((64, 64), value, jnp.float32), "n": jnp.asarray(value, jnp.int32)}


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert (a.dtype, a.sharding) == (b.dtype, b.sharding)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("optimizer", "keep"),
    [
        (torch_adam(0.1), averaging.last()),
        (torch_lbfgs(memory_size=2), averaging.average(0.9)),
        (optax.sgd(0.1), averaging.best()),
    ],
    ids=["adam", "lbfgs-torch", "sgd"],
)
def test_the_rest_is_the_same_bit_for_bit(folder, optimizer, keep):
    minimizer = Minimizer(lambda x: jnp.sum((x - 0.3) ** 4), optimizer, iterates=keep)
    run = lambda state: minimizer.run(state, 3)[0]  # noqa: E731
    start = jnp.linspace(0, 1, 15).reshape(5, 3)
    state = run(minimizer.init(start))
    with folder.store() as store:
        store.save(3, state, {"scale": 1, "name": "ä"})
    with folder.store() as store:
        step, found, extra = store.resume(lambda extra: jax.eval_shape(lambda: state))
    assert (step, extra) == (3, {"scale": 1, "name": "ä"})
    assert_same(found, state)
    assert_same(run(found), run(state))


@pytest.mark.parametrize("kind", [jnp, np])
def test_the_wanted_state_may_depend_on_what_was_saved_beside_it(folder, kind):
    with folder.store() as store:
        assert store.resume(lambda _: numbers(0)) is None
        store.save(1, kind.ones((4, 2)), {"shape": [4, 2]})
        found = store.resume(lambda extra: kind.zeros(extra["shape"]))
        assert found.state.shape == (4, 2)
        with pytest.raises(InputError, match="can be read"):  # not cut or padded
            store.resume(lambda extra: kind.zeros((4, 3)))


def test_two_are_kept(folder):
    with folder.store() as store:
        for step in (2, 5, 9):
            store.save(step, numbers(step), {})
    assert folder.steps() == [5, 9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 65}, "made from size 64, not 65; give what was given then"),
        ({"layers": ["a"]}, "made from layers a,b, not a;"),
        ({"steps": 3}, "made from steps unknown, not 3;"),
        ({"size": 65, "style image": ["d"]}, "made from another style image and size 64, not 65;"),
        ({"a": 1, "b": 2, "c": 3, "size": 65}, "c unknown, not 3 and 1 more; give"),
        ({"style image": []}, "made from another style image;"),
    ],
)
def test_the_folder_of_another_job_is_refused(folder, changes, message):
    folder.store().close()
    folder.store().close()  # the same one is welcome
    with pytest.raises(InputError, match=message):
        folder.store(**changes)


def test_a_job_without_a_fingerprint_is_refused(tmp_path):
    with pytest.raises(InputError, match="the fingerprint is empty, so any job could go on from"):
        checkpoint.CheckpointStore(tmp_path, fingerprint={}, warn=print)


def test_a_job_is_refused_that_lacks_what_another_one_has(folder):
    folder.store(steps=3).close()
    with pytest.raises(InputError, match="made from steps 3, not unknown;"):
        folder.store()


def test_one_run_at_a_time_has_the_folder(folder):
    with folder.store() as store:
        with pytest.raises(InputError, match="is in use by another run; wait for its end"):
            folder.store()
        store.save(1, numbers(1), {})  # which goes on
    folder.store().close()


def test_what_was_chosen_is_recalled(folder):
    assert checkpoint.recall(folder.path) == {}
    for chosen in ({"remat": "blocks", "size": 64}, {"remat": "none"}):
        checkpoint.CheckpointStore(folder.path, fingerprint=JOB, chosen=chosen, warn=print).close()
        assert checkpoint.recall(folder.path) == {"remat": "blocks", "size": 64}  # at first


def test_folders_that_cannot_be_used(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be used"):
        checkpoint.CheckpointStore(tmp_path / "file", fingerprint=JOB, warn=print)
    with pytest.raises(InputError, match="holds no checkpoints; give a new folder"):
        checkpoint.CheckpointStore(tmp_path, fingerprint=JOB, warn=print)
    folder.store().close()
    for text in ("{", "[]", '{"size": 64}'):
        (folder.path / "job.json").write_text(text)
        with pytest.raises(InputError, match=r"damaged job\.json"):
            folder.store()


def test_what_a_killed_beginning_has_left_is_in_nobodys_way(folder):
    folder.path.mkdir(parents=True)
    for name in ("job.lock", ".nst-jax-0123456789abcdef.json"):
        (folder.path / name).touch()
    folder.store().close()


def test_the_folder_of_another_version_is_recognized(folder):
    folder.store().close()
    path = folder.path / "job.json"
    about = json.loads(path.read_text())

    def of(**versions):
        changed = {**about, "versions": about["versions"] | versions}
        path.write_text(json.dumps(checkpoint._sealed(without_sum(changed))))
        return folder.store()

    with pytest.raises(InputError, match=r"is of nst_jax 0\.0\.1, and this is .*; go on with the"):
        of(nst_jax="0.0.1")
    assert folder.complaints == []
    of(jax="0.0.1").close()
    assert "are of jax 0.0.1, and this is" in folder.complaints.pop()
    path.write_text(json.dumps({name: about[name] for name in ("fingerprint", "chosen")}))
    with pytest.raises(InputError, match="or that of an older version; give another folder"):
        folder.store()


def test_what_cannot_be_written_is_named_and_the_one_before_stays(folder):
    """As on a full disk, which a limit for the size of files is here."""
    noise = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(400, 400)))}
    with folder.store() as store:
        store.save(1, numbers(1) | noise, {})
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN  # Python's own way
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**17, before[1]))
        try:
            store.save(2, numbers(2) | noise, {})
            store.save(3, numbers(3) | noise, {})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        (said,) = folder.complaints  # once
        assert f"the checkpoint {folder.path / '2'} cannot be written (File too large)" in said
        assert folder.steps() == [1]
        store.save(4, numbers(4) | noise, {})
    assert sorted(os.listdir(folder.path)) == ["1", "4", "job.json", "job.lock"]
    with folder.store() as store:
        step, state, _ = store.resume(lambda _: numbers(0) | noise)
        assert step == 4
        assert_same(state, numbers(4) | noise)


def test_a_folder_that_was_removed_is_made_again(folder):
    with folder.store() as store:
        store.save(1, numbers(1), {})
        shutil.rmtree(folder.path)
        store.save(2, numbers(2), {})
    with folder.store() as store:
        assert store.resume(lambda _: numbers(0)).step == 2
    assert folder.complaints == []


def test_a_folder_that_is_deleted_is_gone(folder):
    with folder.store() as store:
        store.save(1, numbers(1), {})
        (folder.path / ".nst-jax-0123.json").touch()
        store.delete()
    assert not folder.path.exists()
    with folder.store() as store:
        assert store.resume(lambda _: numbers(0)) is None


def without_sum(about):
    return {name: x for name, x in about.items() if name != "crc"}


def cut(paths):
    for path in paths:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(paths):
    for path in paths[-1:]:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def forge(paths):
    """What was read is not what was written, and only the checksum knows."""
    (about,) = (path for path in paths if path.name == "metadata")
    content = json.loads(about.read_text())
    content["sum"] ^= 1
    about.write_text(json.dumps(checkpoint._sealed(without_sum(content))))


def remove(paths):
    for path in paths:
        path.unlink()


@pytest.mark.parametrize(
    ("damage", "part"), [(cut, "state"), (flip, "state"), (remove, "about"), (forge, "about")]
)
def test_a_damaged_checkpoint_is_passed_over(folder, damage, part):
    rng = np.random.default_rng(0)
    state = numbers(1) | {"noise": jnp.asarray(rng.normal(size=(99, 99)))}
    with folder.store() as store:
        store.save(1, state, {"at": "one"})
        store.save(2, numbers(2) | {"noise": -state["noise"]}, {"at": "two"})
    damage(folder.files(2, part))
    with folder.store() as store:
        step, found, extra = store.resume(lambda _: state)
        assert (step, extra) == (1, {"at": "one"})
        assert_same(found, state)
        assert len(folder.complaints) == 1
        assert f"the checkpoint {folder.path / '2'} cannot be read (" in folder.complaints[0]
        assert "\n" not in folder.complaints[0]
        store.save(2, state, {})  # the same step again
    assert folder.steps() == [1, 2]
    assert (folder.path / "damaged-2-0").is_dir()


def test_nothing_that_can_be_read_is_an_error(folder):
    with folder.store() as store:
        store.save(1, numbers(1), {})
    cut(folder.files(1))
    with folder.store() as store, pytest.raises(InputError, match=r"no checkpoint .* can be read"):
        store.resume(lambda _: numbers(0))


def test_the_checksum_sees_every_bit():
    for kind in ("float32", "float64", "bfloat16", "int32", "uint8", "bool"):
        with jax.enable_x64(kind == "float64"):
            ones = jnp.ones((3, 5), kind)
            sums = [
                ones,
                ones.at[2, 3].set(jnp.zeros((), kind)),
                ones[:, :4],
                jnp.zeros((3, 5), kind),
            ]
            found = [checkpoint._checksum([x]) for x in sums]
            assert len(set(found)) == len(found), kind
    a, b = jnp.ones(3), jnp.zeros(3)
    assert checkpoint._checksum([a, b]) != checkpoint._checksum([b, a])


MEMORY = """
import sys

import numpy as np
import psutil

from nst_jax.io.checkpoint import CheckpointStore
from peak_memory import forget_peak, peak

ARRAYS, BYTES = 4, 2**26


def measured(call):
    before = psutil.Process().memory_info().rss
    forget_peak()
    result = call()
    print(round((peak() - before) / BYTES, 1))
    return result


rng = np.random.default_rng(0)  # what does not compress
state = [rng.random(BYTES // 4, np.float32) for _ in range(ARRAYS)]
small = [x[:9] for x in state]
with CheckpointStore(sys.argv[1], fingerprint={"a": 1}, warn=print) as store:
    store.save(1, small, {})  # imports and compiles
    store.resume(lambda _: small)
    measured(lambda: store.save(2, state, {}))
    found = measured(lambda: store.resume(lambda _: state)).state
assert all(map(np.array_equal, found, state))
found[0][0] = 2  # its own memory
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel for the peak of memory")
def test_states_of_numpy_take_little_memory_beside_their_own(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "k")]
    environment = os.environ | {"PYTHONPATH": TESTS_PATH}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    saved, resumed = map(float, done.stdout.split())  # in arrays, of which the state has four
    assert saved < 3  # what the checksum of one array takes, and none of what the state does
    assert resumed < 4 + 3  # and what TensorStore reads at a time


def test_without_orbax(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(InputError, match=r"pip install '\.\[checkpoint\]'"):
        folder.store()


SAVING = """
import sys, jax.numpy as jnp
from nst_jax.io.checkpoint import CheckpointStore
with CheckpointStore(sys.argv[1], fingerprint={"a": 1}, warn=print) as store:
    for step in range(int(sys.argv[2]), 10_000):
        store.save(step, {"x": jnp.full((256, 256), step), "n": jnp.asarray(step)}, {"at": step})
        print(step, flush=True)
"""


def test_a_killed_save_leaves_the_one_before(tmp_path):
    """Killed at any time, what is restored is complete, and the last one or one after it."""
    last, rng = 0, np.random.default_rng(0)
    wanted = {"x": jnp.zeros((256, 256), jnp.int32), "n": jnp.zeros((), jnp.int32)}
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", SAVING, str(tmp_path / "c"), str(last + 1)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as saving:
            try:
                told = [int(saving.stdout.readline()) for _ in range(3)]
                time.sleep(rng.uniform(0, 0.2))
            finally:
                saving.kill()
            told += [int(line) for line in saving.stdout]
        assert saving.returncode == -signal.SIGKILL
        complaints = []
        with checkpoint.CheckpointStore(
            tmp_path / "c", fingerprint={"a": 1}, warn=complaints.append
        ) as store:
            last, state, extra = store.resume(lambda _: wanted)
        assert complaints == []
        assert last in (told[-1], told[-1] + 1)
        assert extra == {"at": last}
        assert (np.asarray(state["x"]) == last).all()
        assert state["n"] == last
        assert all(b == a + 1 for a, b in pairwise(told))
