"""Programs that are found again without tracing; `test_compiled` has whole processes."""

import dataclasses
import gzip
import os
import shutil
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fast
from nst_jax import Config, layers, stylize
from nst_jax.devices import compilation_cache, executable_cache
from nst_jax.devices.backend import resolve
from nst_jax.devices.executable_cache import CachedJit, cached_executables
from nst_jax.scale import step as scale_step
from nst_jax.scale.hyperparameters import hyperparameters
from nst_jax.transfer import estimate
from package import PACKAGE, ROOT

X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Carried(NamedTuple):
    x: jax.Array
    scale: jax.Array | float


class Other(NamedTuple):
    x: jax.Array
    scale: jax.Array


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "ready"


@pytest.fixture
def traced():
    """The number of times that a function has been traced, by one that is new in each process."""
    return []


def as_in_a_new_process(traced):
    def work(carried, power, *, mode="sum"):
        traced.append(mode)
        grown = carried.x**power * carried.scale
        return Carried(grown + 1 if mode == "sum" else grown, carried.scale), jnp.dot(grown, X.T)

    return CachedJit(work, static_argnames=("mode",), donate_argnames=("carried",))


def expected(x, power, scale=2.0):
    grown = x**power * np.float32(scale)
    return grown + 1, grown @ X.T


def files(folder):
    return sorted(folder.iterdir()) if folder.exists() else []


def check(out, x=X, power=2):
    (carried, product), (sum_, other) = out, expected(x, power)
    np.testing.assert_allclose(carried.x, sum_, rtol=1e-6)
    np.testing.assert_allclose(product, other, rtol=1e-6)


def test_few_programs_are_loaded_at_once(folder, traced, monkeypatch):
    monkeypatch.setattr(executable_cache, "_MOST_LOADED", 2)
    double = CachedJit(lambda x: traced.append(x.shape) or 2 * x, static_argnames=())
    with cached_executables(folder):
        for size in (1, 2, 1, 3, 1, 2):
            np.testing.assert_array_equal(double(jnp.ones(size)), np.full(size, 2.0))
    assert traced == [(1,), (2,), (3,)]  # what was forgotten is loaded from the folder again
    assert len(double._programs) == 2


def test_what_was_read_from_jaxs_own_cache_is_not_written_again(folder, traced, own_programs):
    """XLA's CPU backend would leave out functions."""
    for _ in range(2):  # the second time it is in JAX's cache
        with compilation_cache.kept_programs(pytest.fail):
            given = Carried(jnp.asarray(X), 2.0)
            as_in_a_new_process(traced)._jitted(given, 2)
    with compilation_cache.kept_programs(pytest.fail), cached_executables(folder):
        check(as_in_a_new_process(traced)(Carried(jnp.asarray(X), 2.0), 2))
        jax.clear_caches()
        check(as_in_a_new_process(traced)(Carried(jnp.asarray(X), 2.0), 2))
    assert len(traced) == 3


def test_the_next_process_traces_nothing(folder, traced):
    with cached_executables(folder):
        work = as_in_a_new_process(traced)
        check(work(Carried(jnp.asarray(X), 2.0), 2))
        check(work(Carried(jnp.asarray(X + 1), 2.0), 3), X + 1, 3)  # numbers are no part of it
        assert traced == ["sum"]
        assert len(files(folder)) == 1
        given = jnp.asarray(X)
        check(as_in_a_new_process(traced)(Carried(given, 2.0), power=2, mode="sum"))
        assert given.is_deleted()  # it was donated
    assert traced == ["sum"]
    assert len(files(folder)) == 1
    # Outside it is as if there were no folder.
    check(as_in_a_new_process(traced)(Carried(jnp.asarray(X), 2.0), 2))
    assert traced == ["sum", "sum"]


def test_what_makes_another_program_is_traced(folder, traced, monkeypatch):
    def count(carried, power=2, **options):
        """Return how often two new processes trace, of which the second one never should."""
        before = len(traced)
        for _ in range(2):
            arrays = jax.tree.map(jnp.array, carried)
            as_in_a_new_process(traced)(arrays, power, **options)
        return len(traced) - before

    first = Carried(X, np.float32(2))
    with cached_executables(folder):
        assert count(first) == 1
        assert count(first) == 0
        assert count(first, mode="product") == 1
        assert count(Carried(X[:1], np.float32(2))) == 1
        assert count(Other(X, np.float32(2))) == 1
        assert count(Carried(X.astype(np.int32), np.float32(2))) == 1
        assert count(Carried(X, np.float32([[2]]))) == 1
        assert count(first, 2.0) == 1
        assert count(first, 3.0) == 0
        assert count(first, np.float32(2)) == 1  # it does not give way to other types
        with jax.default_matmul_precision("highest"):
            assert count(first) == 1
        with jax.enable_x64(True):
            assert count(first) == 1
        monkeypatch.setenv("XLA_FLAGS", "--xla_dump_max_hlo_modules=7")
        assert count(first) == 1
        monkeypatch.undo()
        assert count(first) == 0
        for name in ("_code", "processor"):
            with monkeypatch.context() as other:
                other.setattr(executable_cache, name, lambda: "another")
                assert count(first) == 1


def test_the_static_fields_of_settings_are_part_of_it_and_their_numbers_are_not():
    def key(**change):
        settings = hyperparameters(dataclasses.replace(Config(), **change))
        return executable_cache._key("advance", {}, {"settings": settings})

    assert key() == key(style_weight=2.0) != ""
    others = {key(space="normalized"), key(optimizer="lbfgs"), key(style_layers=layers("relu1_1"))}
    assert len({key(), *others}) == 4


def test_the_code_and_the_versions_are_part_of_it(monkeypatch, tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "nst_jax")
    own, other = (
        tmp_path / "nst_jax" / x for x in ("devices/executable_cache.py", "losses/terms.py")
    )
    monkeypatch.setattr(executable_cache, "__file__", str(own))
    before = executable_cache._code.__wrapped__()
    assert executable_cache._code.__wrapped__() == before
    other.write_text(other.read_text() + "x = 2\n")  # in another room
    after = executable_cache._code.__wrapped__()
    monkeypatch.setattr(executable_cache, "version", lambda name: "0")
    assert len({before, after, executable_cache._code.__wrapped__()}) == 3


def test_inside_of_other_transformations_it_is_jit(folder, traced):
    work = as_in_a_new_process(traced)

    def total(x):
        carried, product = work(Carried(x, 2.0), 2)
        return carried.x.sum() + product.sum()

    expected_gradient = jax.grad(lambda x: (x**2 * 2 + 1).sum() + (x**2 * 2 @ X.T).sum())(X)
    with cached_executables(folder):
        np.testing.assert_allclose(jax.grad(total)(jnp.asarray(X)), expected_gradient, rtol=1e-6)
        np.testing.assert_allclose(
            jax.jit(jax.grad(total))(jnp.asarray(X)), expected_gradient, rtol=1e-6
        )
        assert jax.eval_shape(total, X).shape == ()
        assert jax.vmap(total)(jnp.stack([X, X])).shape == (2,)
    assert files(folder) == []


@pytest.mark.parametrize("option", ["jax_disable_jit", "jax_debug_nans", "jax_debug_infs"])
def test_debugging_modes_stay_what_they_are(folder, traced, option):
    before = getattr(jax.config, option)
    jax.config.update(option, True)
    try:
        with cached_executables(folder):
            check(as_in_a_new_process(traced)(Carried(jnp.asarray(X), 2.0), 2))
    finally:
        jax.config.update(option, before)
    assert files(folder) == []


ELSEWHERE = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp
from nst_jax.devices.executable_cache import CachedJit, cached_executables

first, second = jax.devices()
double = CachedJit(lambda x: 2 * x, static_argnames=())
folder = Path(sys.argv[1])
with cached_executables(folder):
    assert double(jax.device_put(1.0, second)).devices() == {second}
    with jax.default_device(second):
        assert double(jnp.ones(())).devices() == {second}
    assert not folder.exists()
    assert double(jnp.ones(())).devices() == {first}
assert folder.exists()
"""


def test_arrays_elsewhere_are_left_to_jit(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": fast.xla_flags(2)}
    command = [sys.executable, "-c", ELSEWHERE, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_setting_without_a_text_of_its_own_is_left_to_jit(folder, traced):
    with cached_executables(folder):
        as_in_a_new_process(traced)(Carried(jnp.asarray(X), 2.0), 2, mode=object())
    assert files(folder) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-40] + bytes(40),
        lambda whole: b"",
        lambda whole: gzip.compress(b"not a pickle"),
    ],
)
def test_a_damaged_program_is_made_again(folder, traced, damage):
    with cached_executables(folder):
        as_in_a_new_process(traced)(Carried(jnp.asarray(X), 2.0), 2)
        (file,) = files(folder)
        file.write_bytes(damage(file.read_bytes()))
        check(as_in_a_new_process(traced)(Carried(jnp.asarray(X), 2.0), 2))
        check(as_in_a_new_process(traced)(Carried(jnp.asarray(X), 2.0), 2))
    assert len(traced) == 2
    assert files(folder) == [file]


def test_a_folder_that_cannot_be_written_costs_only_time(folder, traced):
    folder.write_text("a file in its place")
    with cached_executables(folder):
        for _ in range(2):
            check(as_in_a_new_process(traced)(Carried(jnp.asarray(X), 2.0), 2))
    assert len(traced) == 2
    assert folder.read_text() == "a file in its place"


def test_a_device_whose_programs_cannot_be_kept_costs_only_time(folder, traced, monkeypatch):
    monkeypatch.setattr(executable_cache, "serialize", NotImplementedError)
    with cached_executables(folder):
        check(as_in_a_new_process(traced)(Carried(jnp.asarray(X), 2.0), 2))
    assert files(folder) == []


def test_what_was_used_longest_ago_goes_first(folder, traced, monkeypatch):
    def use(count):
        as_in_a_new_process(traced)(Carried(jnp.zeros((count, 3)), 2.0), 2)

    with cached_executables(folder):
        use(1)
    (first,) = files(folder)
    monkeypatch.setattr(executable_cache, "_MOST_BYTES", int(2.5 * first.stat().st_size))
    with cached_executables(folder):
        use(2)
    (second,) = set(files(folder)) - {first}
    for age, file in ((200, first), (100, second)):
        then = file.stat().st_mtime - age
        executable_cache.os.utime(file, (then, then))
    with cached_executables(folder):
        use(1)
        use(3)
    assert first in files(folder)
    assert second not in files(folder)
    assert len(files(folder)) == 2


def test_what_a_forecast_compiles_is_what_the_run_calls(folder, photographs, random_params):
    """Also that the memory is known of a program that was found."""
    given = layers("relu1_1")
    config = resolve(Config(content_layers=given, style_layers=given, min_size=0, steps=1))
    content, style = photographs
    shape, look = content.shape[:2], style.shape[:2]
    with cached_executables(folder):
        need = estimate.estimate_memory(shape, [look], config=config)
        (file,) = files(folder)
        network = scale_step.build_network(random_params, config, deepest="relu1_1")
        scale_step.advance._programs.clear()  # as in a new process
        assert estimate.estimate_memory(shape, [look], config=config) == need
        *_, last = stylize(content, style, network=network, config=config)
        (found,) = (path for path in files(folder) if path.name.startswith("advance"))
        scale_step.advance._programs.clear()
        *_, again = stylize(content, style, network=network, config=config)
    assert found == file
    *_, jitted = stylize(content, style, network=network, config=config)
    np.testing.assert_array_equal(last.image, jitted.image)
    np.testing.assert_array_equal(again.image, jitted.image)
