"""The cross-check must pass if nothing is wrong, and else name the rung with the fault."""

import dataclasses
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from commands import run
from fast import xla_flags
from nst_jax import Layer, load_image, preset
from nst_jax.crosscheck import __main__ as crosscheck
from nst_jax.crosscheck import ladder, report
from nst_jax.io.images import draw_image
from nst_jax.losses import objective, terms
from nst_jax.losses import statistics as moments
from nst_jax.network import conv, vgg
from nst_jax.network.vgg import VGG
from nst_jax.optimizers import minimize
from nst_jax.scale import step as scale_step
from nst_jax.scale.hyperparameters import hyperparameters
from package import ROOT

CONFIG = dataclasses.replace(
    preset("pytorch"), steps=6, learning_rate=0.2, precision="float32", conv="direct"
).resolve("cpu")


@pytest.fixture(scope="module")
def records(torch, reference, torch_file):
    """Small records, odd in both directions: 19x23 px."""
    from nst_jax.crosscheck import pytorch_record

    state = reference.load_state(torch_file)
    images = [draw_image(seed, 19, 23) for seed in (0, 1)]
    lbfgs = dataclasses.replace(CONFIG, optimizer="lbfgs-torch")
    return {
        config.optimizer: (pytorch_record.record(state, *images, config), config)
        for config in (CONFIG, lbfgs)
    }


def first_broken(record, config):
    network = ladder.network_of(record, config)
    for rung in ladder.climb(record, network, config):
        if not rung.passed:
            return rung.name
    trajectory = ladder.run_beside(record, network, config)
    for rung in ladder.trajectory_rungs(trajectory, record, config):
        if not rung.passed:
            return rung.name
    return None


def wrong_weights(name, change):
    def fault(patch):
        right = ladder.from_state_dict
        patch.setattr(
            ladder,
            "from_state_dict",
            lambda *args, **options: (
                (found := right(*args, **options))[0],
                found[1] | {name: change(found[1][name])},
            ),
        )

    return fault


def statistics_as_bgr(patch):
    patch.setattr(vgg, "MEAN", vgg.MEAN[::-1])


def max_for_average(patch):
    right = vgg.pool
    patch.setattr(vgg, "pool", lambda x, pooling: right(x, "max"))


def ceil_for_floor(patch):
    window = (1, 2, 2, 1)
    patch.setattr(
        vgg,
        "pool",
        lambda x, pooling: jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "SAME") / 4,
    )


def no_relu(patch):
    """The tap relu3_1 returns the map before the ReLU."""
    right = VGG.operations
    patch.setattr(
        VGG,
        "operations",
        lambda self, taps=None: (
            (name, (lambda x: x) if name == "relu3_1" else operation)
            for name, operation in right(self, taps and (*taps, "conv3_1"))
        ),
    )


def halved_gram_matrix(patch):
    right = moments.gram_matrix
    for module in (moments, ladder):
        patch.setattr(module, "gram_matrix", lambda features: right(features) / 2)


def content_as_a_sum(patch):
    right = terms.content_loss
    patch.setattr(objective, "content_term", lambda f, *a, **k: right(f, *a, **k) * f.size)


def style_per_row(patch):
    right = terms.style_loss
    patch.setattr(objective, "style_term", lambda f, *a, **k: right(f, *a, **k) * f.shape[-3])


def kernel_not_turned_in_the_gradient(patch):
    def back(kernel, x):
        return conv._correlate(x, kernel.plain.swapaxes(2, 3))

    patch.setattr(conv, "_back", back)


def biased_adam(patch):
    """Adam without the bias correction of its averages."""

    def make_minimizer(settings, loss):
        def update(gradient, state, params=None):
            mean, square = state
            mean = settings.beta1 * mean + (1 - settings.beta1) * gradient
            square = settings.beta2 * square + (1 - settings.beta2) * gradient**2
            return -settings.learning_rate * mean / (jnp.sqrt(square) + 1e-8), (mean, square)

        optimizer = optax.GradientTransformation(lambda x: (jnp.zeros_like(x),) * 2, update)
        return minimize.Minimizer(loss, optimizer)

    patch.setattr(ladder, "make_minimizer", make_minimizer)


def first_step_by_the_l2_norm(patch):
    right = optax.tree.norm
    patch.setattr(optax.tree, "norm", lambda tree, ord=2: right(tree, ord=2 if ord == 1 else ord))


def clipped_after_every_step(patch):
    right = minimize.step_once

    def step_once(minimizer, state, args):
        state, record = right(minimizer, state, args)
        inside = vgg.normalize(jnp.clip(vgg.denormalize(state.variable), 0, 1))
        return state._replace(variable=inside), record

    patch.setattr(minimize, "step_once", step_once)


slow = functools.partial(pytest.param, marks=pytest.mark.slow)
# An operation, a Gram matrix, a term, the gradient, an update and the losses have a fast one.
FAULTS = [
    (statistics_as_bgr, "normalized"),
    (wrong_weights("conv1_1.kernel", lambda k: k[:, :, ::-1]), "operation conv1_1"),  # BGR
    slow(wrong_weights("conv3_1.kernel", lambda k: k.transpose(1, 0, 2, 3)), "operation conv3_1"),
    (wrong_weights("conv5_4.bias", np.zeros_like), "operation conv5_4"),
    (max_for_average, "operation pool1"),
    slow(ceil_for_floor, "operation pool1"),
    (no_relu, "operation relu3_1"),
    (halved_gram_matrix, "Gram relu1_1"),
    (content_as_a_sum, "content relu1_1"),
    slow(style_per_row, "style relu1_1"),
    (kernel_not_turned_in_the_gradient, "gradient"),
    slow(biased_adam, "update 1"),
    (clipped_after_every_step, "loss, step 2"),
]


@pytest.fixture
def no_compiled_programs():
    """Clear compiled programs, so that they neither hide a fault nor keep one for other tests."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("no_compiled_programs")
class TestFaults:
    """With one fault, the first failing rung is the rung that names the fault."""

    @pytest.mark.parametrize(("fault", "rung"), FAULTS, ids=lambda x: getattr(x, "__name__", None))
    def test_is_named(self, records, monkeypatch, fault, rung):
        fault(monkeypatch)
        assert first_broken(*records["adam"]) == rung

    def test_first_step_of_lbfgs(self, records, monkeypatch):
        first_step_by_the_l2_norm(monkeypatch)
        assert first_broken(*records["lbfgs-torch"]) == "update 1"

    def test_taps_before_the_relu(self, records):
        record, config = records["adam"]
        layers = (Layer("conv1_1"), *config.style_layers[1:])
        assert first_broken(record, dataclasses.replace(config, style_layers=layers)) == (
            "Gram conv1_1"
        )


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs-torch"])
def test_no_fault_breaks_nothing(records, optimizer):
    assert first_broken(*records[optimizer]) is None


def test_relus_that_rounding_opens_are_held_where_the_record_has_them(records):
    """A record whose gradient went through a ReLU that is closed here."""
    record, config = records["adam"]
    network = ladder.network_of(record, config)
    opened, before = record["map/relu1_1"].copy(), record["map/conv1_1"]
    opened[np.unravel_index(before.argmin(), before.shape)] = 1e-30
    image = {role: jnp.asarray(record[f"image/{role}"]) for role in ladder._ROLES}
    right = ladder._switches(ladder._record_maps(record, config), config)
    masks = {**right, "relu1_1": opened > 0}
    settings = hyperparameters(config)
    targets = scale_step.compute_targets(network, image["content"], [image["style"]], settings)
    gradient = ladder._evaluate(network, image, config, targets, masks)[1]
    changed = {**record, "map/relu1_1": opened, "gradient": np.asarray(gradient)}
    rungs = {rung.name: rung for rung in ladder.climb(changed, network, config)}
    assert rungs["gradient, 1 switches held"].passed
    # The changed switch changes the gradient; the right switches give the usual gradient.
    assert np.linalg.norm(gradient - record["gradient"]) > 1e-3 * np.linalg.norm(gradient)
    usual = ladder._evaluate(network, image, config, targets, right)[1]
    np.testing.assert_allclose(usual, record["gradient"], rtol=1e-3, atol=1e-5)


@pytest.fixture(scope="module")
def flags(torch_file):
    return [f"--weights={torch_file}", "--size=23", "--steps=6"]


def test_a_broken_rung_is_named_with_exit_code_1(flags, tmp_path, capsys, monkeypatch):
    statistics_as_bgr(monkeypatch)
    jax.clear_caches()
    assert crosscheck.main([*flags, "--quiet", f"--json={tmp_path / 'a.json'}"]) == 1
    jax.clear_caches()
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith("normalized ")
    assert out.splitlines()[0].endswith("FAIL")
    assert re.search(r"FAILED: \d+ of \d+ rungs .* the first is: normalized$", out)
    assert json.loads((tmp_path / "a.json").read_text())["first_broken"] == "normalized"


def test_a_run_that_ends_early_fails_and_is_still_written(records, tmp_path):
    record, config = records["adam"]
    theirs = record["losses/total"]
    trajectory = ladder.Trajectory(np.full_like(theirs, np.nan), theirs, {})
    rungs = list(ladder.trajectory_rungs(trajectory, record, config))
    assert not any(rung.passed for rung in rungs)
    report.write_json(tmp_path / "a.json", rungs, trajectory, config)
    assert json.loads((tmp_path / "a.json").read_text())["losses"]["jax"] == [None] * 6
    pytest.importorskip("matplotlib")
    report.write_plot(tmp_path / "a.svg", trajectory, config)
    assert (tmp_path / "a.svg").stat().st_size > 1000


def without(module, *arguments, cwd):
    """Run the cross-check in a process where a module cannot be imported."""
    script = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from nst_jax.crosscheck.__main__ import main; sys.exit(main())"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags()}
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.slow
def test_exported_and_checked_without_torch(flags, tmp_path, capsys):
    """A table on the screen, and the numbers in files."""
    path, plotted = tmp_path / "record.safetensors", importlib.util.find_spec("matplotlib")
    flags = [*flags, "--optimizer=lbfgs", "--memory-size=4", "--style-weight=50"]
    flags += ["--precision=float64", "--conv=winograd"]
    assert crosscheck.main([*flags, f"--export={path}"]) == 0
    out = capsys.readouterr().out
    assert "content  drawn" in out
    assert "run      6 steps of lbfgs-torch at 23x17 px, average pooling" in out
    assert f"wrote    {path}" in out
    files = ["--json=a.json", *(["--plot=a.png"] if plotted else [])]
    done = without("torch", f"--against={path}", *files, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run      6 steps of lbfgs-torch at 23x17 px, average pooling" in done.stdout
    assert "numbers  float64, direct convolutions" in done.stdout
    assert "operation conv4_2" in done.stdout
    assert "loss, steps 3-5" in done.stdout
    assert "passed: all " in done.stdout
    assert "FAIL" not in done.stdout
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["passed"]
    assert found["first_broken"] is None
    assert found["config"]["precision"] == found["arithmetic"] == "float64"
    assert (found["config"]["optimizer"], found["config"]["memory_size"]) == ("lbfgs-torch", 4)
    assert (found["config"]["style_weight"], found["config"]["conv"]) == (50, "direct")
    assert len(found["losses"]["torch"]) == len(found["losses"]["jax"]) == 6
    assert {"name", "error", "largest", "budget", "passed"} == set(found["rungs"][0])
    if plotted:
        plot = load_image(tmp_path / "a.png")
        assert plot.min() < 0.1  # something is drawn
        assert plot.mean() > 0.5
    # The same record in another precision.
    assert crosscheck.main([f"--against={path}", "--precision=auto", "--conv=auto"]) == 0
    assert "numbers  float32, winograd convolutions" in capsys.readouterr().out
    assert crosscheck.main([f"--against={path}", "--precision=tf32"]) == 2
    assert "precision is tf32, which a cpu does not have" in capsys.readouterr().err
    assert crosscheck.main([f"--against={path}", "--steps=3", "--content=a.png"]) == 2
    assert "--content, --steps: " in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:-9])
    assert crosscheck.main([f"--against={path}"]) == 2
    assert "truncated" in capsys.readouterr().err


def test_trained_vgg16_where_vgg19_cannot_be_had(torch, package, capsys):
    """Average and max pooling, on the pictures that the project ships."""
    images = [f"--{name}={ROOT / 'png' / name}.png" for name in ("content", "style")]
    for more, notes in ((["--pooling=max"], 1), (["--network=vgg16"], 0)):
        assert crosscheck.main([*images, "--size=33", "--steps=5", *more]) == 0
        printed = capsys.readouterr()
        assert "weights  VGG-16, " in printed.out
        assert "operation conv5_3 " in printed.out
        assert "operation conv5_4 " not in printed.out
        assert "passed: all" in printed.out
        assert printed.err.count("VGG-16 paints, not VGG-19. Why: cannot download") == notes


def test_exported_arrays_may_lie_in_memory_in_any_order(tmp_path):
    """Such as the kernels of a state dict that was made by transposing."""
    turned = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)
    crosscheck._save_record(tmp_path / "r.safetensors", {"a": turned, "b": np.array(1.0)}, CONFIG)
    record, config = crosscheck._load_record(tmp_path / "r.safetensors")
    np.testing.assert_array_equal(record["a"], turned)
    assert record["b"].shape == ()
    assert config.resolve("cpu") == CONFIG


def test_without_torch_it_says_what_to_install(tmp_path):
    done = without("torch", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'nst-jax[crosscheck]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_matplotlib_it_says_so_before_the_work(tmp_path):
    done = without("matplotlib", "--plot=a.png", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install matplotlib" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--content=nothing.png"], "nothing.png"),
        (["--weights=nothing.pth"], "nothing.pth"),
        (["--size=12"], "at least 16 px"),
        (["--optimizer=sgd"], "invalid choice: 'sgd'"),
        (["--memory-size=3"], "memory-size is for the optimizer lbfgs"),
        (["--json=a.txt"], "must end in .json"),
        (["--plot=a.jpg"], "must end in .png or .svg or .pdf"),
        (["--export=a.npz"], "must end in .safetensors"),
        (["--export=a.safetensors", "--json=a.json"], "leave out --json"),
        (["--export=a.safetensors", "--against=b.safetensors"], "give one of them"),
        (["--against=nothing.safetensors"], "no such file"),
        (["--against=notes.txt"], "truncated or no file of --export"),
        (["--json=missing/a.json"], "missing"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(torch, flags, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("no record")
    code = run(crosscheck.main, flags)
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert said in error
    assert os.listdir() == ["notes.txt"]
