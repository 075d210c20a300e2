"""What every public name promises, checked by looking at the package itself."""

import ast
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest

import nst_jax
from package import MODULES, PACKAGES, PUBLIC, ROOMS, ROOT, imports, needs, parsed, room

FUNCTIONS = {name: x for name, x in PUBLIC.items() if callable(x) and not inspect.isclass(x)}
# What is asked for, not how: these may be given by position although they have a default.
OPERANDS = {"argv", "taps", "weights", "deepest", "bias", "state", "learning_rate", "message"}


def public_functions(module):
    """Yield the name and the node of each function and method that users may call."""
    tree = parsed(module)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            members = [(f"{node.name}.{x.name}", x) for x in node.body if hasattr(x, "args")]
        else:
            members = [(node.name, node)] if isinstance(node, ast.FunctionDef) else []
        for name, function in members:
            last = name.split(".")[-1]
            if not last.startswith("_") or last in ("__call__", "__init__"):
                yield name, function


def test_the_names():
    assert set(PUBLIC) == {
        *("stylize", "Snapshot", "Config", "Layer", "layers", "preset", "PRESETS", "InputError"),
        *("load_image", "save_image", "load_mask", "load_color_map"),
        *("VGG", "VGG16", "VGG19", "build_vgg16", "build_vgg19", "parameters"),
        *("Features", "FrozenParam", "freeze", "match_activations", "mean_activations"),
        *("load_network", "load_vgg16", "load_vgg19"),
        *("gram_matrix", "StyleStatistics", "style_statistics"),
        *("content_loss", "style_loss", "style_target", "StyleFormula", "total_variation"),
        *("warp", "seen_before", "temporal_loss", "compute_flow", "load_flow"),
        *("Targets", "Losses", "make_targets", "style_transfer_loss"),
        *("Minimizer", "State", "Record", "average", "best", "last"),
        *("run_scales", "Problem", "resize_state", "resample", "scales"),
        *("describe_style", "perceptual_loss"),
        *("ARCHITECTURES", "CheckpointStore", "cached_executables", "cached_weights"),
        *("estimate_memory", "match_colors"),
    }
    assert nst_jax.load_image is not None
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        nst_jax.paint  # noqa: B018


@pytest.mark.parametrize("module", MODULES)
def test_options_are_keyword_only(module):
    for name, node in public_functions(module):
        positional = node.args.posonlyargs + node.args.args
        optional = {arg.arg for arg in positional[len(positional) - len(node.args.defaults) :]}
        assert optional <= OPERANDS, f"{module}.{name}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_explained(name):
    function, text = FUNCTIONS[name], inspect.getdoc(FUNCTIONS[name])
    signature = inspect.signature(function)
    if len(signature.parameters) > 1:
        explained = set(re.findall(r"^ +(\w+): ", text.partition("Args:\n")[2], re.M))
        assert explained >= set(signature.parameters)
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter
    assert signature.return_annotation is not inspect.Parameter.empty


def shapes(annotation):
    """Return the shapes that a signature names, as "*batch height width 3"."""
    return re.findall(r"(?:Float|Num|Int|UInt8|Shaped)\[[^']*?'([^']*)'\]", str(annotation))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arrays_have_shapes_and_images_have_units(name):
    module = FUNCTIONS[name].__module__.removeprefix("nst_jax.")
    node = dict(public_functions(module))
    source = ast.unparse(node[name].args)
    bare = re.findall(r": (?:jax\.Array|np\.ndarray|Array)\b", source)
    assert not bare, source
    if "Image" in source or any(shape.split()[-1:] == ["3"] for shape in shapes(source)):
        text = inspect.getdoc(FUNCTIONS[name])
        assert "sRGB" in text
        assert "[0, 1]" in text or "of the same shape" in text or "HWC" in text


@pytest.mark.parametrize("module", MODULES)
def test_errors_are_announced(module):
    """Whoever raises an error for the caller says so."""
    for name, node in public_functions(module):
        raised = {
            x.exc.func.id
            for x in ast.walk(node)
            if isinstance(x, ast.Raise) and isinstance(x.exc, ast.Call)
            if isinstance(x.exc.func, ast.Name)
        }
        text = ast.get_docstring(node) or ""
        for error in raised - {"AssertionError", "NotImplementedError"}:
            if not name.endswith("__"):
                assert error in text, f"{module}.{name} raises {error}"


@pytest.mark.parametrize(
    "name",
    [
        *("gram_matrix", "content_loss", "style_loss", "total_variation", "style_transfer_loss"),
        "perceptual_loss",
    ],
)
def test_formulas_name_their_source(name):
    assert re.search(r"arXiv \d{4}\.\d{4,5}|[\w-]+/[\w-]+-[\w-]+", inspect.getdoc(PUBLIC[name]))


def test_every_class_explains_its_fields():
    for name, x in PUBLIC.items():
        fields = getattr(x, "_fields", None)
        if fields and name != "Layer":
            explained = re.findall(r"^ +(\w+): ", inspect.getdoc(x), re.M)
            assert explained == list(fields), name


def reached(module):
    found, queue = set(), [module]
    while queue:
        new = needs(queue.pop()) - found
        found |= new
        queue += new
    return found


def test_the_rooms():
    assert {room(module) for module in MODULES} == set(ROOMS)
    public = {name for name, x in PUBLIC.items() if callable(x)}
    assert not public & set(ROOMS)  # importing the room would take the function's name
    for name in PACKAGES:
        (docstring,) = parsed(f"{name}.__init__").body  # to import a room imports nothing else
        assert isinstance(docstring, ast.Expr)


def test_shapes_are_checked_where_there_are_any(pytestconfig):
    """In other rooms, as that of the settings, the checks take long and find what mypy finds."""
    shaped = {room(module) for module in MODULES if "jaxtyping" in dict(imports(parsed(module)))}
    checked = pytestconfig.getoption("jaxtyping_packages").split(",")[:-1]
    assert sorted(checked) == sorted(f"nst_jax.{name}" for name in shaped)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    assert needs(module) <= set(MODULES)
    for other in needs(module):
        assert ROOMS.index(room(other)) <= ROOMS.index(room(module)), f"{module} imports {other}"
    assert module not in reached(module)


def test_tests_mirror_the_rooms():
    """A test lies in the folder of its room, but what users do and meet has its own."""
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert folders - {"__pycache__", "tasks", "reliability"} == set(PACKAGES)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("geometry", {"errors"}),
        ("network", {"errors", "geometry", "linear"}),
        ("network.architecture", {"errors"}),
        ("losses", {"errors", "geometry", "linear", "io.arrays"}),
        ("optimizers", set()),
        ("io", {"errors", "geometry", "distributed"}),
        ("io.images", {"errors", "geometry"}),
        (
            "weights",
            {"errors", "linear", "network", "io.files", "io.cache_folder"}
            | {"color", "config", "devices", "geometry", "losses", "optimizers", "io.arrays"}
            # For the pictures that a network's activations are measured on.
            | {"io.images", "io.colors", "io.decoding", "io.formats", "io.notes", "io.encoding"}
            | {"io.writers", "io.extras", "io.metadata"},
        ),
    ],
)
def test_what_a_room_knows(name, known):
    """Losses know no network, optimizers no losses, pictures no style transfer."""
    for module in MODULES:
        if name in (module, room(module)):
            others = {other for other in reached(module) if room(other) != room(module)}
            assert all({other, room(other)} & known for other in others), module


def test_the_job_on_arrays_knows_no_files_of_pictures_or_weights():
    for module in MODULES:
        if room(module) == "transfer":
            found = reached(module)
            assert not {"io.images"} & found, module
            assert not {"weights", "cli", "crosscheck"} & {room(other) for other in found}, module


def third_parties(when):
    """Return the top names of what other projects give and the package imports, at import or later.

    The side that is PyTorch throughout is imported only by those who ask for it.
    """
    found = set()
    for module in {*MODULES, "__init__"} - {"pytorch_reference", "crosscheck.pytorch_record"}:
        for name, at_import in imports(parsed(module)):
            top = name.split(".")[0]
            if at_import == when and top not in sys.stdlib_module_names and top != "nst_jax":
                found.add(top)
    return found


def test_runtime_dependencies_are_those_that_are_imported():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    distributions = importlib.metadata.packages_distributions()
    used = {distributions[name][0].lower() for name in third_parties(True)}
    assert used == required
    optional = {
        "torch",
        "torchvision",
        "matplotlib",
        "orbax",
        "pillow_heif",
        "shtab",
        "tifffile",
        "jinja2",
        "av",
        "gradio",
        "pandas",
        "IPython",
    }
    assert third_parties(False) - third_parties(True) <= optional


def test_importing_brings_no_torch_and_no_files_and_prints_nothing():
    code = "import sys, nst_jax; print(sorted(set(sys.modules) & set(sys.argv[1:])))"
    unwanted = ["torch", "torchvision", "PIL", "safetensors", "platformdirs", "matplotlib", "orbax"]
    unwanted += [f"nst_jax.{name}" for name in ("io.images", "weights", "cli", "crosscheck")]
    done = subprocess.run(
        [sys.executable, "-c", code, *unwanted], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_importing_starts_no_device():
    """Neither does a command line, nor bring torch."""
    code = (
        "import sys, nst_jax.cli.main, nst_jax.cli.convert; from jax._src import xla_bridge as x\n"
        "print(x._backends, sorted({'torch', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{} []\n", "")


def test_wheel_and_sdist(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install '.[test]'")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    names = zipfile.ZipFile(wheel).namelist()
    package = {name for name in names if ".dist-info/" not in name}
    modules = [*MODULES, "__init__", *(f"{name}.__init__" for name in PACKAGES)]
    files = {f"nst_jax/{module.replace('.', '/')}.py" for module in modules}
    assert package == files | {
        *("nst_jax/py.typed", "nst_jax/weights/pictures.jpg", "nst_jax/cli/report.html"),
        *(f"nst_jax/app/examples/{name}.png" for name in ("content", "ink", "mosaic", "style")),
    }
    with tarfile.open(sdist) as archive:
        inside = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", "main.py", "tests/test_api.py"} <= inside
    assert f"nst_jax-{nst_jax.__version__}" in wheel.name.replace("-py3", "")


def test_the_citation_is_of_this_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {nst_jax.__version__}" in lines
