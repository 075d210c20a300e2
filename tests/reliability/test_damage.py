"""Checkpoints on a disk that has changed them: what is read is what was written, or is named."""

import os
import random
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from nst_jax.errors import InputError
from nst_jax.io.checkpoint import CheckpointStore, recall

pytest.importorskip("orbax.checkpoint", reason="not installed: pip install '.[checkpoint]'")

CHOSEN = {"size": 512, "conv": "winograd"}
EXTRA = {"scale": 1, "rows": 12, "recent": [0.123456789, 1.5], "fixed": [110, 34]}


def store(folder, warn):
    return CheckpointStore(
        folder, fingerprint={"steps": 34, "content image": ["01ab"]}, chosen=CHOSEN, warn=warn
    )


def state(step):
    rng = np.random.default_rng(step)
    return {"x": jnp.asarray(rng.normal(size=(40, 30, 3)), jnp.float32), "n": jnp.asarray(step)}


def damage(path, rng):
    """Change one bit, or cut, lengthen, empty or remove the file."""
    content = bytearray(path.read_bytes())
    how = rng.choice(["bit", "bit", "bit", "cut", "long", "empty", "gone"])
    if how == "bit" and content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(
        {
            "cut": content[: rng.randrange(len(content) + 1)],
            "long": content + b"\0",
            "empty": b"",
        }.get(how, content)
    )
    if how == "gone":
        path.unlink()
    return how


# What TensorStore has read after another part could not be read may find Orbax's loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("count", [20, pytest.param(400, marks=pytest.mark.slow)])
def test_one_file_is_damaged(count, tmp_path, record_property):
    """A checkpoint with a damaged file is recognized, and the newest good one is taken."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with store(whole, print) as kept:
        for step in (1, 2):
            kept.save(step, state(step), EXTRA | {"at": step})
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    files = [path for path in files if path.name != "job.lock"]
    rng = random.Random(count)
    taken, refused = [], []
    for number in range(count):
        shutil.copytree(whole, broken)
        path = rng.choice(files)
        how, said = damage(broken / path, rng), []
        case = f"{path} {how} {number}"
        assert recall(broken) in (CHOSEN, {}), case
        try:
            with store(broken, said.append) as kept:
                found = kept.resume(lambda extra: state(0))
        except InputError as error:
            found = error
        if path.name == "job.json":
            refused.append(isinstance(found, InputError))
        else:
            assert found.extra == EXTRA | {"at": found.step}, case
            for name, value in state(found.step).items():
                np.testing.assert_array_equal(found.state[name], value, err_msg=case)
            assert found.step == 2 or (path.parts[0] == "2" and said), case
            taken.append(found.step)
        shutil.rmtree(broken)
    assert os.listdir(tmp_path) == ["whole"]
    assert set(taken) == {1, 2} or count < 100  # the names of files are random
    assert all(refused)
    record_property("cases", count)
