import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from commands import run
from nst_jax.cli import convert
from nst_jax.network.architecture import ARCHITECTURES
from nst_jax.weights import sources
from nst_jax.weights.download import sha256_of
from nst_jax.weights.packaged import packaged_weights
from nst_jax.weights.state_dict import to_state_dict, torchvision_keys
from package import ROOT
from server import serving


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
    assert sources.load_weights(output).trained


def test_default_output_is_where_the_main_job_looks(torch_file, offline, capsys):
    assert convert.main([f"--source={torch_file}"]) == 0
    assert sources.find_weights("pretrained").origin.startswith(str(offline))


def test_caffe_layout_is_proved_too(torch, torch_file, tmp_path, capsys):
    state = torch.load(torch_file, weights_only=True)
    names = {position: name for name, position in torchvision_keys(ARCHITECTURES["vgg19"]).items()}
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
    right = sources.from_state_dict

    def wrong(*arguments, **options):
        network, params = right(*arguments, **options)
        return network, FAULTS[fault](params)

    monkeypatch.setattr(sources, "from_state_dict", wrong)
    output = tmp_path / "out.safetensors"
    assert convert.main([f"--source={torch_file}", f"--output={output}"]) == 1
    printed = capsys.readouterr()
    assert "OVER the budget" in printed.out
    assert "the proof failed; nothing was written" in printed.err
    assert list(tmp_path.iterdir()) == []


def test_without_torch_it_says_that_the_proof_was_skipped(random_params, tmp_path):
    """Convert a state dict to a file in a process where importing torch fails."""
    source = tmp_path / "vgg19.safetensors"
    safetensors.numpy.save_file(to_state_dict(random_params, "vgg19"), source)
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from nst_jax.cli.convert import main; sys.exit(main())"
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
    loaded = sources.load_weights(output).params
    np.testing.assert_array_equal(loaded["conv5_4.kernel"], random_params["conv5_4.kernel"])


class TestPretrained:
    """--source pretrained."""

    def test_through_torchvision(self, torch, reference, torch_file, monkeypatch, capsys, tmp_path):
        from torch.hub import load_state_dict_from_url

        name = f"vgg19-{sha256_of(torch_file)[:8]}.pth"
        with serving(torch_file.read_bytes()) as server:
            models = reference.import_torchvision().models
            weight = models.VGG19_Weights.IMAGENET1K_V1
            assert weight.url.endswith(sources._PRETRAINED["vgg19"])
            assert models.VGG16_Weights.IMAGENET1K_V1.url.endswith(sources._PRETRAINED["vgg16"])
            fake = type("W", (), {"url": f"{server.url}/{name}"})()
            fake.get_state_dict = lambda **options: load_state_dict_from_url(fake.url, **options)
            assert weight.get_state_dict  # the faked method exists
            fakes = type("V", (), {"IMAGENET1K_V1": fake})
            monkeypatch.setattr(models, "VGG19_Weights", fakes)
            torch.hub.set_dir(str(tmp_path / "hub"))
            assert convert.main([]) == 0
            cached = tmp_path / "hub" / "checkpoints" / name
            torch.save({"another": torch.zeros(1)}, cached)  # torchvision trusts its cache
            assert convert.main([]) == 2
            assert f"{name} is altered or truncated" in capsys.readouterr().err
            cached.write_bytes(b"no state dict")
            assert convert.main([]) == 2
            assert "torchvision cannot get its weights" in capsys.readouterr().err
            cached.unlink()
            server.content = b"something else"
            assert convert.main([]) == 2
        assert "invalid hash value" in capsys.readouterr().err
        assert name in sources.find_weights("pretrained").origin

    def test_without_torch_by_our_own_download(self, torch_file, monkeypatch):
        monkeypatch.setattr(convert, "_reference", lambda: None)
        name = f"vgg19-{sha256_of(torch_file)[:8]}.pth"
        with serving(torch_file.read_bytes()) as server:
            monkeypatch.setenv("NST_JAX_PRETRAINED_URL", f"{server.url}/{name}")
            server.breaks_after = 1_000_000
            assert convert.main([]) == 0
        assert server.requests == [None, "bytes=1000000-"]
        assert sources.find_weights("pretrained").trained

    def test_vgg16_by_our_own_download(self, state16, tmp_path, monkeypatch, offline):
        monkeypatch.setattr(convert, "_reference", lambda: None)
        source = tmp_path / "w.safetensors"
        safetensors.numpy.save_file(state16, source)
        name = f"vgg16-{sha256_of(source)[:8]}.safetensors"
        monkeypatch.setattr(sources, "_PRETRAINED", {"vgg16": name})
        with serving(source.read_bytes()) as server:
            monkeypatch.setenv("NST_JAX_PRETRAINED_URL", f"{server.url}/")  # a folder's mirror
            assert convert.main(["--network=vgg16"]) == 0
        assert (offline / "vgg16.safetensors").exists()
        assert sources.find_weights("pretrained", network="vgg16").network == "vgg16"

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


def test_trained_vgg16_is_converted_proved_and_found(package, torch, tmp_path, offline, capsys):
    """A file as torch.save writes it, with the classifier; the file tells the network."""
    trained = packaged_weights().params
    state = {k: torch.from_numpy(v) for k, v in to_state_dict(trained, "vgg16").items()}
    source = tmp_path / "mine.pth"
    torch.save(state | {"classifier.0.bias": torch.zeros(4096)}, source)
    assert convert.main([f"--source={source}"]) == 0
    printed = capsys.readouterr().out
    assert f"{source} is VGG-16\n" in printed
    assert f"wrote {offline / 'vgg16.safetensors'}\n" in printed
    errors = errors_of(printed)
    assert len(errors) == 26
    assert 0 < max(errors.values()) < 5e-6
    found = sources.find_weights("pretrained", network="vgg16")
    assert "mine.pth" in found.origin  # the cache comes before the package
    for name, array in trained.items():
        np.testing.assert_array_equal(found.params[name], array)
    assert convert.main([f"--source={source}", "--network=vgg19"]) == 2
    assert "is a VGG-16, not a VGG-19; ask for vgg16" in capsys.readouterr().err


@pytest.mark.slow
def test_trained_vgg19(shared, torch, tmp_path, capsys):
    source = shared / "weights" / "vgg19_features.pth"
    assert convert.main([f"--source={source}", f"--output={tmp_path / 'w.safetensors'}"]) == 0
    assert max(errors_of(capsys.readouterr().out).values()) < 5e-6
