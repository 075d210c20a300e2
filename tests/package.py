"""What the package is by its own source: its rooms, modules, public names and imports."""

import ast
import functools
import os
import types
from pathlib import Path

import nst_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nst_jax"
# PYTHONPATH of a process that imports the package and modules of the tests.
TESTS_PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


def _name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


# A room is a folder of modules, or a module at the top; its modules are named from the package on.
MODULES = sorted(_name(path) for path in PACKAGE.rglob("*.py") if path.stem != "__init__")
PACKAGES = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
# From the ground up: a room knows those before it, and nothing of those behind it.
ROOMS = (
    *(
        "errors",
        "geometry",
        "motion",
        "color",
        "linear",
        "network",
        "distributed",
        "io",
        "losses",
        "optimizers",
    ),
    *("config", "presets", "devices", "weights", "scale", "transfer"),
    *("pytorch_reference", "app", "cli", "crosscheck", "__main__"),
)
PUBLIC = {
    name: getattr(nst_jax, name)
    for name in dir(nst_jax)
    if not name.startswith("_") and not isinstance(getattr(nst_jax, name), types.ModuleType)
}


def room(module):
    return module.partition(".")[0]


@functools.cache
def parsed(module):
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())


def imports(tree):
    """Yield the modules that are imported when this one is, and those imported later."""
    later = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        or (isinstance(function, ast.If) and "TYPE_CHECKING" in ast.unparse(function.test))
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
            if node.module.removeprefix("nst_jax.") in ("nst_jax", *PACKAGES):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node not in later


@functools.cache
def needs(module):
    """Return the modules of the package that a module imports, at once or later."""
    own = {name for name, _ in imports(parsed(module)) if name.partition(".")[0] == "nst_jax"}
    return {name.removeprefix("nst_jax.") for name in own} - {"nst_jax.__version__", "__version__"}
