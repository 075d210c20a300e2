"""Compiled programs are kept between runs, by the command lines only."""

import json
import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import pytest

from fast import xla_flags
from nst_jax import save_image
from nst_jax.devices import compilation_cache
from nst_jax.weights import converted_file
from package import ROOT

pytestmark = pytest.mark.usefixtures("own_programs")

# The main job, and what JAX says it did.
SCRIPT = """
import collections, json, sys
import jax
from nst_jax.cli.main import main
events, traced = collections.Counter(), []
jax.monitoring.register_event_listener(lambda name, **_: events.update([name]))


def listen(name, seconds, fun_name="", **_):
    if name == "/jax/core/compile/jaxpr_trace_duration" and fun_name in ("advance", "_describe"):
        traced.append(fun_name)


jax.monitoring.register_event_duration_secs_listener(listen)
code = main(sys.argv[1:])
names = {name: f"/jax/compilation_cache/cache_{name}" for name in ("hits", "misses")}
found = {key: events[name] for key, name in names.items()} | {"traced": sorted(traced)}
print(json.dumps(found), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def job(tmp_path, photographs, random_params):
    for name, image in zip(("content.png", "style.png"), photographs, strict=True):
        save_image(tmp_path / name, image)
    metadata = {"format": converted_file.FORMATS["vgg19"], "source": "x", "source_sha256": "0" * 64}
    converted_file.save_weights(tmp_path / "w.safetensors", random_params, metadata)
    flags = ["--content=content.png", "--style=style.png", "--weights=w.safetensors"]
    flags += ["--content-layers=relu1_1", "--style-layers=relu1_1"]  # compile fast

    def run(**environment):
        """Return what JAX did, what else was said, and the picture."""
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                SCRIPT,
                *flags,
                "--size=24",
                "--min-size=0",
                "--steps=2",
                "--quiet",
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags(), **environment},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        *said, did = done.stderr.splitlines()
        return json.loads(did), said, (tmp_path / "stylized.png").read_bytes()

    return run


LARGE = ["_describe", "_describe", "advance"]  # images of two sizes


def programs(folder):
    return {path: path.read_bytes() for path in folder.rglob("*-cache")}


def ready(folder):
    found = {path: path.read_bytes() for path in folder.rglob("ready/*")}
    return dict(sorted(found.items()))


def test_the_second_run_compiles_nothing_and_a_damaged_program_is_replaced(job, offline):
    did, said, picture = job()
    assert did == {"hits": 0, "misses": did["misses"], "traced": LARGE}
    assert did["misses"] > 2
    assert said == []
    kept, large = programs(offline / "compiled"), ready(offline / "compiled")
    assert len(kept) == did["misses"]
    assert [path.name.split("-")[0] for path in large] == LARGE

    # The large ones are not even traced.
    unchanged = {"hits": len(kept), "misses": 0, "traced": []}
    assert job() == (unchanged, [], picture)
    assert programs(offline / "compiled") == kept
    assert ready(offline / "compiled") == large

    path = list(large)[-1]
    path.write_bytes(large[path][:-40] + bytes(40))
    assert job() == (unchanged | {"traced": ["advance"]}, [], picture)

    # It is whole again, and another one is damaged.
    (damaged,) = (path for path in kept if path.name.startswith("jit__freeze-"))
    damaged.write_bytes(kept[damaged][:-40] + bytes(40))
    did, said, again = job()
    again_one = {"hits": len(kept) - 1, "misses": 1, "traced": []}
    assert did == again_one
    assert again == picture
    (line,) = said
    assert line.startswith(f"nst-jax: reading compiled programs in {damaged.parent} failed (")

    # That is whole too. Another one was being written when the process was killed.
    other = max(kept.keys() - {damaged}, key=lambda path: path.stat().st_size)
    other.with_name(other.name.replace("-cache", "-atime")).unlink()
    assert job() == (again_one, [], picture)


def test_a_folder_that_cannot_be_written_is_one_line(job, offline):
    offline.mkdir(parents=True)
    (offline / "compiled").write_text("a file in its place")
    did, said, _ = job()
    assert did == {"hits": 0, "misses": 0, "traced": LARGE}
    (line,) = said
    assert line.startswith("nst-jax: compiled programs are not kept (")
    assert line.endswith("set NST_JAX_CACHE to another folder")


def test_the_users_own_folder_wins_and_the_cache_can_be_turned_off(job, offline, tmp_path):
    job(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert (tmp_path / "own").is_dir()
    did = {"hits": 0, "misses": 0, "traced": LARGE}
    assert job(JAX_ENABLE_COMPILATION_CACHE="0")[0] == did
    assert not (offline / "compiled").exists()


SETTINGS = ("jax_compilation_cache_dir", *compilation_cache._SETTINGS)


def test_everything_is_as_before_at_the_end(offline, monkeypatch):
    before = {name: getattr(jax.config, name) for name in SETTINGS}
    assert before["jax_compilation_cache_dir"] is None
    monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "7")
    with kept_and_silent():
        assert jax.config.jax_compilation_cache_dir.startswith(str(offline / "compiled"))
        assert jax.config.jax_compilation_cache_max_size == -1  # the user's, not ours
        jax.jit(lambda x: x * 3 + 1)(jnp.ones(3))
    kept = programs(offline)
    assert kept
    jax.jit(lambda x: x * 5 + 1)(jnp.ones(3))
    assert programs(offline) == kept
    assert {name: getattr(jax.config, name) for name in SETTINGS} == before


def kept_and_silent():
    return compilation_cache.kept_programs(pytest.fail)


def test_the_folder_is_bounded(offline, monkeypatch):
    functions = [lambda x, n=n: x * n + jnp.sin(x) for n in range(6)]
    x = jnp.ones(3)
    with kept_and_silent():
        jax.jit(functions[0])(x)
    (size,) = map(len, programs(offline).values())
    monkeypatch.setitem(compilation_cache._SETTINGS, "jax_compilation_cache_max_size", 3 * size)
    with kept_and_silent():
        for function in functions[1:]:
            jax.jit(function)(x)
    assert 1 <= len(programs(offline)) <= 3


def test_other_warnings_pass_and_faults_are_said_once(offline):
    said, fault = [], "Error writing persistent compilation cache entry for 'a': OSError: full"
    with (
        warnings.catch_warnings(record=True) as others,
        compilation_cache.kept_programs(said.append),
    ):
        warnings.simplefilter("always")
        for text in ("something else", fault, fault):
            warnings.warn(text, stacklevel=1)
    assert [str(warning.message) for warning in others] == ["something else"]
    folder = compilation_cache.compiled_dir()
    assert said == [f"writing compiled programs in {folder} failed (OSError: full); going on"]
