import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from commands import run
from nst_jax import convert, weights
from nst_jax.download import sha256_of
from server import serving

ROOT = Path(__file__).parents[1]


def errors_of(printed):
    return {tap: float(number) for tap, number in re.findall(r"^(\w+_\d)\s+(\S+)$", printed, re.M)}


@pytest.mark.parametrize(("dtype", "budget"), [("float32", 5e-6), ("bfloat16", 5e-2)])
def test_conversion_proves_itself(torch_file, tmp_path, capsys, dtype, budget):
    output = tmp_path / "out.safetensors"
    flags = [f"--source={torch_file}", "--output", str(output), f"--dtype={dtype}"]
    assert convert.main(flags) == 0
    printed = capsys.readouterr().out
    errors = errors_of(printed)
    assert len(errors) == 32
    assert 0 < max(errors.values()) < budget
    assert "within the budget" in printed
    assert weights.load_weights(output).trained


def test_default_output_is_where_the_main_job_looks(torch_file, offline, capsys):
    assert convert.main([f"--source={torch_file}"]) == 0
    assert weights.find_weights("pretrained").origin.startswith(str(offline))


def test_caffe_layout_is_proved_too(torch, torch_file, tmp_path, capsys):
    state = torch.load(torch_file, weights_only=True)
    names = {position: name for name, position in weights.torchvision_keys().items()}
    named = {f"{names[k.rsplit('.', 1)[0]]}.{k.rsplit('.', 1)[1]}": v for k, v in state.items()}
    named["fc6.weight"] = torch.zeros(3, 3)
    torch.save(named, tmp_path / "caffe.pth")
    flags = [f"--source={tmp_path / 'caffe.pth'}", f"--output={tmp_path / 'c.safetensors'}"]
    assert convert.main([*flags, "--layout=caffe"]) == 0
    assert max(errors_of(capsys.readouterr().out).values()) < 5e-6
    assert convert.main(flags) == 2
    assert "--layout caffe" in capsys.readouterr().err


FAULTS = {
    "kernel transposed": lambda p: {
        k: v.transpose(1, 0, 2, 3) if k == "conv3_1.kernel" else v for k, v in p.items()
    },
    "colors swapped": lambda p: {
        k: v[:, :, ::-1] if k == "conv1_1.kernel" else v for k, v in p.items()
    },
    "bias lost": lambda p: {k: v * (k != "conv5_4.bias") for k, v in p.items()},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_proof_leaves_no_file(torch_file, tmp_path, capsys, monkeypatch, fault):
    right = weights.from_state_dict
    monkeypatch.setattr(weights, "from_state_dict", lambda *a, **k: FAULTS[fault](right(*a, **k)))
    output = tmp_path / "out.safetensors"
    assert convert.main([f"--source={torch_file}", f"--output={output}"]) == 1
    printed = capsys.readouterr()
    assert "OVER the budget" in printed.out
    assert "the proof failed; nothing was written" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_without_torch_it_says_that_the_proof_was_skipped(random_params, tmp_path):
    """In a process where importing torch fails, from a state dict to a file."""
    keys, state = weights.torchvision_keys(), {}
    for name, array in random_params.items():
        conv, leaf = name.split(".")
        value = array.transpose(3, 2, 0, 1) if leaf == "kernel" else array
        suffix = "weight" if leaf == "kernel" else "bias"
        state[f"{keys[conv]}.{suffix}"] = np.ascontiguousarray(value)
    source = tmp_path / "vgg19.safetensors"
    safetensors.numpy.save_file(state, source)
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from nst_jax.convert import main; sys.exit(main())"
    )
    output = tmp_path / "out.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", script, f"--source={source}", f"--output={output}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "proof skipped" in done.stdout
    loaded = weights.load_weights(output).params
    np.testing.assert_array_equal(loaded["conv5_4.kernel"], random_params["conv5_4.kernel"])


class TestPretrained:
    """--source pretrained."""

    def test_through_torchvision(self, torch, reference, torch_file, monkeypatch, capsys, tmp_path):
        from torch.hub import load_state_dict_from_url

        name = f"vgg19-{sha256_of(torch_file)[:8]}.pth"
        with serving(torch_file.read_bytes()) as server:
            weight = reference.import_torchvision().models.VGG19_Weights.IMAGENET1K_V1
            fake = type("W", (), {"url": f"{server.url}/{name}"})()
            fake.get_state_dict = lambda **options: load_state_dict_from_url(fake.url, **options)
            assert weight.get_state_dict  # the method that is stood in for exists
            fakes = type("V", (), {"IMAGENET1K_V1": fake})
            monkeypatch.setattr(reference.import_torchvision().models, "VGG19_Weights", fakes)
            torch.hub.set_dir(str(tmp_path / "hub"))
            assert convert.main([]) == 0
            cached = tmp_path / "hub" / "checkpoints" / name
            torch.save({"another": torch.zeros(1)}, cached)  # torchvision does not look again
            assert convert.main([]) == 2
            assert f"{name} is altered or truncated" in capsys.readouterr().err
            cached.write_bytes(b"no state dict")
            assert convert.main([]) == 2
            assert "torchvision cannot get its weights" in capsys.readouterr().err
            cached.unlink()
            server.content = b"something else"
            assert convert.main([]) == 2
        assert "invalid hash value" in capsys.readouterr().err
        assert name in weights.find_weights("pretrained").origin

    def test_without_torch_by_our_own_download(self, torch_file, monkeypatch):
        monkeypatch.setattr(convert, "_reference", lambda: None)
        name = f"vgg19-{sha256_of(torch_file)[:8]}.pth"
        with serving(torch_file.read_bytes()) as server:
            monkeypatch.setenv("NST_JAX_PRETRAINED_URL", f"{server.url}/{name}")
            server.breaks_after = 1_000_000
            assert convert.main([]) == 0
        assert server.requests == [None, "bytes=1000000-"]
        assert weights.find_weights("pretrained").trained

    def test_no_network(self, monkeypatch, capsys):
        monkeypatch.setattr(convert, "_reference", lambda: None)
        assert convert.main([]) == 2
        error = capsys.readouterr().err
        assert error.startswith("nst-jax-convert: error: cannot download")
        assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--source=nothing.pth"], "nothing.pth"),
        (["--layout=keras"], "invalid choice: 'keras'"),
        (["--dtype=int8"], "invalid choice: 'int8'"),
        (["--output=weights.npz"], "must end in .safetensors"),
        (["--output=missing/w.safetensors"], "missing"),
        (["--layout=caffe"], "pretrained is in the layout torchvision"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(flags, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = run(convert.main, flags)
    error = capsys.readouterr().err
    assert code == 2
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.slow
def test_trained_weights(shared, torch, tmp_path, capsys):
    source = shared / "weights" / "vgg19_features.pth"
    assert convert.main([f"--source={source}", f"--output={tmp_path / 'w.safetensors'}"]) == 0
    assert max(errors_of(capsys.readouterr().out).values()) < 5e-6
