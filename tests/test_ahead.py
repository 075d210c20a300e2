"""Programs read as text, and compiled for devices that are not here where their compilers are."""

import dataclasses
import sys
from pathlib import Path

import pytest

# Last, so that an installed nst_jax is still what is tested.
sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import ahead, hlo, work
from commands import run
from nst_jax.devices.backend import resolve
from nst_jax.presets import preset
from nst_jax.scale.ahead_of_time import lower_step

pytestmark = pytest.mark.optimized


def test_a_program_s_operations():
    program = hlo.read(
        """HloModule m

%inner (p: f32[2,3]) -> f32[2,3] {
  %p = f32[2,3]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %n = f32[2,3]{1,0} negate(%p), metadata={op_name="jit(f)/while/body/neg"}
}

ENTRY %main.1 (x: f32[2,3], y: (pred[], /*index=1*/bf16[4])) -> (f32[2,3], s32[]) {
  x = f32[2,3]{1,0} parameter(0)
  %many.2 = (f32[2,3]{1,0:T(8,128)(2,1)}, s32[]) fusion(%x, %x), kind=kLoop, calls=%inner
}
"""
    )
    assert list(program) == ["inner", "main.1"]
    assert program["inner"][1].origin == "body/neg"
    x, many = program["main.1"]
    assert (x.name, x.kind, x.operands) == ("x", "parameter", ())
    assert (many.kind, many.operands) == ("fusion", ("x", "x"))
    assert many.rest == ", kind=kLoop, calls=%inner"
    assert hlo.count_bytes(many.result) == 2 * 3 * 4 + 4
    assert hlo.count_bytes("(pred[3], bf16[4,2]{1,0}, f64[])") == 3 + 16 + 8


def test_the_compiled_step_makes_the_products_that_were_counted():
    """Of the compiled program, against the sum over layers: two ways to the same number."""
    config = resolve(dataclasses.replace(preset("pytorch"), conv="direct", precision="float32"))
    program = hlo.read(lower_step((32, 48), [(32, 48)], config=config).compile().as_text())
    step = program[hlo.bodies(program)[0]]
    types = {operation.name: operation.result for operation in step}
    made = sum(hlo.flops(operation, types, program) for operation in step)
    assert made == work.step_flops(32, 48)


@pytest.mark.parametrize("precision", ["bfloat16", "tf32", "float32"])
def test_the_step_of_a_gpu(precision):
    pytest.importorskip("jax_plugins.xla_cuda13", reason="needs the compiler of the extra gpu")
    config = dataclasses.replace(preset("pytorch"), precision=precision)
    config = ahead.resolved("h200", config)
    text = ahead.compile_step("h200", 64, config=config).as_text()
    found = ahead.costs("h200", text, config)
    assert sum(cost.flops for cost in found) == work.step_flops(64, 64)
    said = ahead.summary(found, text)
    assert "26 convolutions, 13 with their ReLU; 0 copies or transposes of maps" in said
    assert said.endswith("rounds of 16 steps")
    # Nothing in the loop talks to the host.
    assert not any(word in text for word in ("infeed", "outfeed", "xla_ffi_python", "callback"))
    kinds = [cost.operation.result.lstrip("(").partition("[")[0] for cost in found[:20]]
    assert ("bf16" in kinds) == (precision == "bfloat16")


@pytest.mark.parametrize("target", ["h200", "v5e"])
def test_devices_that_share_a_picture_send_each_other_border_rows_and_sums(target):
    module = "jax_plugins.xla_cuda13" if target in ahead.GPUS else "libtpu"
    pytest.importorskip(module, reason="needs the compilers of the extras gpu and tpu")
    config = ahead.resolved(target, preset("pytorch"))
    text = ahead.compile_step(target, 128, config=config, devices=2).as_text()
    said = ahead.summary(ahead.costs(target, text, config), text)
    assert "52 collective-permutes" in said  # two for each convolution, forward and back
    assert "all-reduces" in said
    assert "all-gather" not in said
    assert "all-to-all" not in said


def test_the_step_of_a_tpu():
    pytest.importorskip("libtpu", reason="needs the compiler of the extra tpu")
    config = ahead.resolved("v5e", preset("default"))
    assert config.precision == "bfloat16"
    found = ahead.costs("v5e", ahead.compile_step("v5e", 32, config=config).as_text(), config)
    assert sum(cost.amount for cost in found) > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["h100", "--size=8"], "'8' is not a whole number of at least 16"),
        (["b1000"], "invalid choice: 'b1000'"),
        (["h100", "--devices=0"], "'0' is not a whole number of at least 1"),
        (["h100", "--keep=missing/a.txt"], "missing"),
        (["v5e", "--precision=tf32"], "precision is tf32, which a tpu does not have"),
        (
            ["h100"],
            "h100: its compiler does not answer (no such plugin); it comes with pip install",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(flags, said, capsys, monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise RuntimeError("no such plugin")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ahead.topologies, "get_topology_desc", refuse)
    monkeypatch.setattr(ahead, "version", lambda name: "9.1.2")
    assert run(ahead.main, flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
