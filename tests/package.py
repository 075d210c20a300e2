"""What the package is by its own source: its modules, public names and imports."""

import ast
import types
from pathlib import Path

import nst_jax

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nst_jax"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
PUBLIC = {
    name: getattr(nst_jax, name)
    for name in dir(nst_jax)
    if not name.startswith("_") and not isinstance(getattr(nst_jax, name), types.ModuleType)
}


def parsed(module):
    return ast.parse((PACKAGE / f"{module}.py").read_text())


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
            if node.module == "nst_jax":
                names = [f"nst_jax.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, node not in later


def needs(module):
    own = (name for name, _ in imports(parsed(module)) if name.startswith("nst_jax."))
    return {name.split(".")[1] for name in own} & set(MODULES)
