"""The documentation's settings: `python -m sphinx -W --keep-going docs build/docs` builds it."""

import ast
import functools
import inspect
import re
import sys
import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_args

import nst_jax
from nst_jax.config import format_setting

project = "nst_jax"
author = project_copyright = "the authors of nst_jax"
version = release = nst_jax.__version__

# myst_nb reads Markdown and notebooks. Tests run what is in them, so the build does not.
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"
myst_heading_anchors = 3

# Docstrings are Google style, with `names` in single backticks.
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
add_module_names = False
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

# Every name in a signature or in single backticks has an entry, but for those of other libraries.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(jax|jnp|jaxtyping|np|numpy|optax|nnx|equinox|os)[._].+"),
    (r"py:class", r"Array|Bool|DTypeLike|Float|Int|Num|Path|PyTree|UInt32|ndarray"),
    (r"py:obj", r"TVLoss"),  # of crowsonkb/style-transfer-pytorch
]

smartquotes_action = "D"  # of dashes alone
highlight_language = "none"  # of what is indented: commands
html_theme = "furo"
html_title = f"nst_jax {version}"

# What the settings are about, by the first of each kind.
_KINDS = {
    "size": "Sizes and steps",
    "optimizer": "Optimizer",
    "content_loss": "Losses",
    "style_blend": "Style images",
    "tv_loss": "Total variation and colors",
    "start": "First picture",
    "network": "Network and precision",
    "tile": "Memory and random numbers",
}


def _entries() -> set[str]:
    """Return the names that the reference has entries of."""
    pages = (Path(__file__).parent / "reference").glob("*.md")
    text = "".join(page.read_text() for page in pages)
    return set(re.findall(r"^\.\. (?:auto\w+|py:\w+):: (?:[\w.]+\.)?(\w+)$", text, re.M))


@functools.cache
def _names() -> set[str]:
    """Return every name in the package's source: modules, functions, arguments, fields."""
    found = set()
    for path in Path(nst_jax.__file__).parent.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text()))
        found |= {getattr(node, key, None) for node in nodes for key in ("arg", "name", "id")}
        found.add(path.stem)
    return found


def _as_written(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str, returns: str
) -> tuple[str, str | None] | None:
    """Show a signature as the source has it: shapes, and the names of types instead of their parts.

    A class that writes no `__init__` has its fields; a type variable is shown as what it may be.
    """
    if thing is nst_jax.Config:
        return "(**settings)", None
    if what == "exception":
        return None
    own = vars(thing).get("__init__") if isinstance(thing, type) else None
    written = inspect.isfunction(own) and own.__code__.co_filename != "<string>"
    try:
        source = inspect.getsource(inspect.unwrap(own if written else thing))
    except (OSError, TypeError):
        return None
    node: Any = ast.parse(textwrap.dedent(source)).body[0]
    result = None
    if isinstance(node, ast.ClassDef):
        given = ", ".join(_field(x) for x in node.body if _is_field(x))
    else:
        arguments = node.args.posonlyargs or node.args.args
        if arguments and arguments[0].arg == "self":
            arguments.pop(0)
        given = ast.unparse(node.args)
        result = ast.unparse(node.returns).strip("'") if what != "class" else None
    for word, variable in vars(sys.modules[thing.__module__]).items():
        if isinstance(variable, TypeVar):
            allowed = filter(None, (*variable.__constraints__, variable.__bound__))
            meant = " | ".join(each.__name__ for each in allowed) or word
            given, result = (x and re.sub(rf"\b{word}\b", meant, x) for x in (given, result))
    return (f"({given})" if given or what != "class" else ""), result


def _is_field(node: ast.AST) -> bool:
    return isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation)


def _field(node: Any) -> str:
    written = f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}"
    if "KW_ONLY" in written:
        return "*"
    static = node.value is None or "metadata" in ast.unparse(node.value)
    return written if static else f"{written} = {ast.unparse(node.value)}"


def _settings(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put an entry for each setting into the docstring of `Config`."""
    if thing is not nst_jax.Config:
        return
    node: Any = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    types = {ast.unparse(x.target): ast.unparse(x.annotation) for x in node.body if _is_field(x)}
    for setting in fields(nst_jax.Config):
        if setting.name in _KINDS:
            lines += [f".. rubric:: {_KINDS[setting.name]}", ""]
        kind = re.sub(r"Literal\['auto', (\w+)\]", r"Literal['auto'] | \1", types[setting.name])
        lines += [f".. py:attribute:: {setting.name}", f"   :type: {kind}"]
        lines += ["   :value: " + format_setting(setting.default).replace(",", ", "), ""]
        choices = [c for arg in get_args(setting.type) for c in (get_args(arg) or (arg,))]
        words = ", ".join(c for c in choices if isinstance(c, str))
        meaning = re.sub(r"--[\w-]+(=\w+)?", r"``\g<0>``", setting.metadata["help"])
        lines += [f"   {meaning[0].upper()}{meaning[1:]}.{words and f' One of {words}.'}", ""]


def _code(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Make links of the names with entries, and code of other names in the source and expressions.

    What remains in single backticks is a reference that leads nowhere, and the build fails.
    """
    entries, own = _entries(), set(re.findall(r"^:(?:param|ivar) (\w+)", "\n".join(lines), re.M))

    def shown(found: re.Match[str]) -> str:
        text = found[1]
        module, _, last = text.rpartition(".")
        plain = not module or module.islower()  # no member of a class
        if plain and last in entries and text not in own:
            return f":py:obj:`{text} <nst_jax.{last}>`"
        code = (
            text in own or (plain and last in _names()) or not text.replace(".", "").isidentifier()
        )
        return f"``{text}``" if code else found[0]

    lines[:] = [re.sub(r"(?<![`:])`([^`<>]+)`(?!`)", shown, line) for line in lines]


def setup(app: Any) -> None:
    """Connect what is above."""
    app.connect("autodoc-process-signature", _as_written)
    app.connect("autodoc-process-docstring", _settings)
    app.connect("autodoc-process-docstring", _code)
