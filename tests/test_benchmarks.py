"""The benchmark's counts, tables and processes. Nothing here depends on how fast a machine is."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Last, so that an installed nst_jax is still what is tested.
sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import beside, inputs, machine, modes, output, scaling, speed, work, worker
from benchmarks.driver import Result, add_block
from benchmarks.worker import Block, Start
from commands import run
from fast import xla_flags
from nst_jax.io.images import draw_image
from nst_jax.weights.sources import save_weights
from package import ROOT


@pytest.fixture(autouse=True)
def _processes_compile_fast(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", xla_flags())


RATES = {"float32": 2e11, "bfloat16": 4e11, "bandwidth": 2e10}
REPORT = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "python -m benchmarks.speed",
    "platform": "cpu",
    "threads": None,
    "hardware": {"cpu": "a CPU", "cores": 2, "gpus": [], "versions": {"jax": "0"}},
    "rates": RATES,
}


def result(mode, size, *seconds, steps=2, failure=None):
    cold, warm = (Start(0.5, 0.25, 4.0, 5.0, peak) for peak in (3 * 10**9, 10**9))
    found = Result(mode, size, failure, steps, starts={"cold": cold, "warm": warm})
    for taken in seconds:
        found = add_block(found, Block(taken * steps, 0.0, 2 * 10**9))
    return found


RESULTS = [
    result("jax-float32-direct", 256, 0.5, 0.4, 0.6),
    result("torch-float32-eager-nchw", 256, 1.0, 1.0),
    result("torch-float32-compile", 256, 0.75),
    result("torch-bfloat16-eager", 256, 0.25),
    result("jax-bfloat16", 256, failure="out of | memory"),
    result("jax-float32-direct", 512, 2.0),
]


def test_work_against_a_closed_form():
    """Where no size is odd, a map of block b has 4**(1 - b) of the image's pixels."""
    pixels = 96 * 160
    blocks = {1: [(3, 64), (64, 64)], 2: [(64, 128), (128, 128)]}
    blocks |= {3: [(128, 256)] + [(256, 256)] * 3, 4: [(256, 512)] + [(512, 512)] * 3}
    blocks[5] = [(512, 512)]
    products = sum(
        9 * inputs * outputs * 4.0 ** (1 - block)
        for block, convs in blocks.items()
        for inputs, outputs in convs
    )
    assert work.conv_flops(96, 160) == 4 * products * pixels
    grams = sum(convs[0][1] ** 2 * 4.0 ** (1 - block) for block, convs in blocks.items())
    assert work.gram_flops(96, 160) == 4 * grams * pixels
    assert work.step_flops(96, 160) == 4 * (products + grams) * pixels


def test_work_rounds_odd_sizes_down():
    sizes = [(layer.height, layer.width) for layer in work.layers(37, 50) if layer.is_tap]
    assert sizes == [(37, 50), (18, 25), (9, 12), (4, 6), (2, 3)]


def test_work_against_torch_s_own_count(torch, reference):
    from torch.utils.flop_counter import FlopCounterMode

    network = reference.vgg_features()
    target = torch.rand(1, 3, 37, 45, requires_grad=True)
    maps = [f.detach() for f in reference.extract(network, target)]
    with FlopCounterMode(display=False) as counter:
        content, style = reference.losses(network, target, maps, maps)
        (sum(content) + sum(style)).backward()
    counts = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    convs = counts["aten.convolution"] + counts["aten.convolution_backward"]
    assert convs == work.conv_flops(37, 45)
    # The program as written computes the target's Gram matrix in each step, and the gradient as
    # two products although they are the same.
    assert counts["aten.mm"] == 2 * work.gram_flops(37, 45)


def test_all_of_torch_s_modes_make_the_same_steps(torch, reference):
    """As the reference does, whatever the losses are computed with."""
    from benchmarks import torch_side

    state = {f"features.{k}": v for k, v in reference.vgg_features().state_dict().items()}
    content, style = (draw_image(seed, 33, 33) for seed in (0, 1))
    found = {}
    for name in (modes.EAGER, "torch-float32-eager", "torch-bfloat16-eager"):
        job = torch_side.Job(modes.MODES[name], content, style, lambda: state)
        job.run(2)
        found[name] = job.picture()
    images = (torch.from_numpy(x).permute(2, 0, 1)[None] for x in (content, style))
    *_, last = reference.stylize(reference.vgg_features(state), *images, steps=2)
    expected = reference.denormalize(last.target.detach())[0].permute(1, 2, 0).numpy()
    for name in (modes.EAGER, "torch-float32-eager"):
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
    # Where its gradient is uncertain by rounding, Adam goes the other way.
    assert np.abs(found["torch-bfloat16-eager"] - expected).mean() < 3e-4


def test_bytes_hold_at_least_every_map_twice():
    maps = sum(layer.conv.outputs * layer.positions for layer in work.layers(64, 64))
    assert work.step_bytes(64, 64, 4) > 4 * 2 * maps
    # All but the picture and Adam's averages is half as long in bfloat16.
    rest = 4 * 7 * 3 * 64 * 64
    assert work.step_bytes(64, 64, 4) - rest == 2 * (work.step_bytes(64, 64, 2) - rest)


def test_names_are_unique_and_defaults_exist():
    assert len(modes.MODES) == 9 + 6 + 18
    for names in modes.DEFAULT_MODES.values():
        assert set(names) <= set(modes.MODES)
        assert modes.EAGER in names


def test_ratios_are_against_exact_float32_only():
    group = output.by_size(RESULTS)[0]
    assert output.best_torch(group).mode == "torch-float32-compile"
    first, *_, failed = output.rows(group)
    assert first.median == "0.500"
    assert (first.against_best, first.against_eager) == ("1.50", "2.00")
    assert first.rate == "198 GFLOP/s"
    assert first.picture == "5.0 s / 5.0 s"
    assert first.memory == "3000 MB / 2000 MB"
    assert failed == ("jax-bfloat16", "out of | memory")
    (alone,) = output.rows(output.by_size(RESULTS)[1])
    assert alone.against_best == alone.against_eager == ""


def test_files(tmp_path):
    output.write_json(tmp_path / "a.json", REPORT, RESULTS)
    found = json.loads((tmp_path / "a.json").read_text())
    first = found["results"][0]
    assert first["seconds"] == [0.5, 0.4, 0.6]
    assert (first["median"], first["least"]) == (0.5, 0.4)
    assert first["flops"] == work.step_flops(256, 256)
    assert first["starts"]["cold"] == dataclasses.asdict(RESULTS[0].starts["cold"])
    assert found["results"][4]["failure"] == "out of | memory"
    output.write_markdown(tmp_path / "a.md", REPORT, RESULTS)
    text = (tmp_path / "a.md").read_text()
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len(tables) == 5 + 2 + 1 + 2
    assert {line.replace("\\|", "").count("|") for line in tables} == {len(output.HEADERS) + 1}
    assert "matrix products float32 200 GFLOP/s" in text
    pytest.importorskip("matplotlib")
    output.write_plot(tmp_path / "a.svg", REPORT, RESULTS)
    assert "jax-bfloat16 (failed)" in (tmp_path / "a.svg").read_text()


def test_roofline_is_the_slower_of_multiplying_and_moving():
    flops, moved = work.step_flops(64, 64), work.step_bytes(64, 64, 4)
    assert output.roofline(64, "float32", RATES) == flops / RATES["float32"]
    slow = RATES | {"bandwidth": 1.0}
    assert output.roofline(64, "float32", slow) == moved


def test_the_best_rate_of_any_framework_counts():
    assert machine.best([{"a": 1.0, "b": 5.0}, {"a": 2.0}, {}]) == {"a": 2.0, "b": 5.0}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("no", name="torch"), "torch is not installed"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "out of memory"),
        (ValueError("jax computes on cpu, not on gpu"), "jax computes on cpu, not on gpu"),
        (RuntimeError("one\ntwo"), "RuntimeError: one"),
        (KeyError(), "KeyError: "),
        (RuntimeError("x" * 500), "RuntimeError: " + "x" * 85 + "…"),
    ],
)
def test_reasons_are_one_short_line(error, said):
    assert worker.reason(error) == said


FLAGS = ["--sizes=32", "--rounds=1", "--steps=1", "--cache=off", "--no-rates"]


@pytest.fixture(scope="module")
def weights_flag(random_params, tmp_path_factory):
    """Weights that are read faster than others are drawn."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, random_params, inputs.METADATA)
    return f"--weights={path}"


@pytest.mark.slow
def test_a_run_with_a_mode_that_fails(tmp_path, capsys, weights_flag):
    """All in one, as each process takes seconds to start."""
    names = ["jax-float32", "torch-float32-eager", "jax-tf32"]
    flags = [*FLAGS, weights_flag, f"--json={tmp_path / 'a.json'}", "--modes", *names]
    assert run(speed.main, flags) == 0
    out = capsys.readouterr().out
    assert "32x32 px, 1.6 GFLOP a step" in out
    ours, theirs, failed = json.loads((tmp_path / "a.json").read_text())["results"]
    assert ours["failure"] is None
    assert len(ours["seconds"]) == 1
    assert ours["starts"]["off"]["first_picture_seconds"] > ours["starts"]["off"]["import_seconds"]
    assert ours["peak_bytes"] > 80e6  # the weights
    if theirs["failure"]:
        assert theirs["failure"] == "torch is not installed"
    else:
        assert theirs["seconds"][0] > 0
    assert failed["failure"] == "tf32 is float32 on a GPU"
    assert "jax-tf32: tf32 is float32 on a GPU" in out


def test_nothing_measured_is_exit_code_1(capsys, weights_flag):
    assert run(speed.main, [*FLAGS, weights_flag, "--device=gpu", "--modes", "jax-float32"]) == 1
    assert "jax-float32: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--sizes", "0"], "'0' is not a whole number of at least 16"),
        (["--sizes", "a"], "'a' is not a whole number"),
        (["--modes", "jax"], "unknown mode 'jax'"),
        (["--rounds=0"], "at least 1"),
        (["--json=a.txt"], "must end in .json"),
        (["--plot=a.jpg"], "must end in .png or .svg or .pdf"),
        (["--markdown=missing/a.md"], "missing"),
        (["--threads=9999"], "--threads 9999"),
        (["--content=nothing.png", "--no-rates"], "nothing.png"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(flags, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(speed.main, flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


def test_costs_of_a_trace(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
    from benchmarks import profile

    cpu = [
        ("tf_XLAEigen/1", "fusion.1", 2e6),
        ("tf_XLAEigen/2", "dot.3", 8e6),
        ("tf_XLAEigen/2", "fusion.1", 2e6),
        ("tf_XLAEigen/2", "while.2", 9e6),
        ("tf_XLAEigen/2", "end: dot.3", 9e6),
        ("tf_XLAEigen/2", "ThunkExecutor::Execute (sync)", 9e6),
        ("python", "run", 9e6),
    ]
    events = [profile.Event("/host:CPU", *event) for event in cpu]
    expected = [("dot.3", 4.0, 0.5), ("fusion.1", 2.0, 1.0)]
    assert profile.costs(profile.operations(events), steps=2) == expected
    events += [
        profile.Event("/device:GPU:0", "XLA Ops", "gemm", 3e6),
        profile.Event("/device:GPU:0", "Stream #1", "sm90_gemm", 3e6),
    ]
    assert profile.costs(profile.operations(events), steps=1) == [("gemm", 3.0, 1)]
    text = (
        "  ROOT %dot.3 = f32[2,3]{1,0} dot(a, b), metadata={op_name="
        '"jit(f)/while/jvp()/dot_general" stack_frame_id=1}\n'
    )
    assert profile.sources(text) == {"dot.3": "f32[2,3]  jvp()/dot_general"}


def test_the_profile_names_operations(tmp_path):
    command = [sys.executable, "-m", "benchmarks.profile", "--size=32", "--steps=1", "--top=5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] = xla_flags()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "ms a step" in done.stdout
    assert len(done.stdout.splitlines()) == 2 + 5


def test_what_devices_send_is_read_from_the_program():
    program = """
      %a = f32[1,1,512,64]{3,2,1,0} collective-permute(%x), channel_id=1
      %b = (f32[64,64]{1,0}, bf16[8]{0}) all-reduce(%y, %z), to_apply=%add
      %c = f32[4]{0} fusion(%collective-permute), kind=kLoop
      %d = pred[3,5]{1,0} all-gather(%w), dimensions={0}
    """
    assert list(scaling._sent(program)) == [
        ("collective-permute", 4 * 512 * 64),
        ("all-reduce", 4 * 64 * 64 + 2 * 8),
        ("all-gather", 15),
    ]


def test_memory_of_a_mode_that_fails_is_not_asked_for_again(tmp_path, monkeypatch, capsys):
    asked = []

    def measure(plan, inputs, size, say):
        asked.append((plan.modes, size))
        if plan.modes == ("jax-float32",) and size > 24:
            return [Result("jax-float32", size, failure="out of memory")]
        (mode,) = plan.modes
        return [Result(mode, size, seconds=(0.5, 0.25, 0.75), steps=1, peak_bytes=10**9)]

    monkeypatch.setattr(scaling, "measure", measure)
    monkeypatch.setattr(scaling, "prepare", lambda *arguments: None)
    table = tmp_path / "table.md"
    flags = ["memory", "--modes", "jax-float32", "jax-float32-tile512", f"--markdown={table}"]
    assert scaling.main([*flags, "--sizes", "20", "40", "80"]) == 0
    assert [size for modes, size in asked if modes == ("jax-float32",)] == [20, 40]
    lines = table.read_text().splitlines()
    assert lines[2] == "| 20 | 0.500 s, 1.00 GB, 2500000 B/px | 0.500 s, 1.00 GB, 2500000 B/px |"
    assert lines[3].startswith("| 40 | out of memory | 0.500 s")
    assert lines[4].startswith("| 80 | failed at a smaller size |")


def test_the_table_of_what_goes_with_a_picture():
    taken = {
        "alone": [beside.Taken(*x) for x in ((10.0, 12.0), (11.0, 13.0), (90.0, 91.0))],
        "log": [beside.Taken(11.55, 14.3)],
    }
    lines = beside.table(taken).splitlines()
    assert lines[2:] == [
        "| alone |  | 11.00 | 1.000 | 13.00 | 1.000 |",
        "| log | --log=steps.jsonl | 11.55 | 1.050 | 14.30 | 1.100 |",
    ]


@pytest.mark.slow
def test_what_goes_with_a_picture_is_timed(capfd, tmp_path):
    flags = ["--weights=untrained", "--size=32", "--rounds=1", "--variants", "log"]
    assert run(beside.main, flags) == 0
    *_, alone, log = capfd.readouterr().out.splitlines()
    assert re.fullmatch(r"\| alone \|  \| \d+\.\d+ \| 1\.000 \| \d+\.\d+ \| 1\.000 \|", alone)
    assert log.startswith("| log | --log=steps.jsonl | ")
