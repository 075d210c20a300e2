"""The documentation's settings: `python -m sphinx -W --keep-going docs build/docs` builds it."""

import ast
import inspect
import re
import textwrap
from dataclasses import fields
from typing import Any, get_args

import nst_jax
from nst_jax.cli.flags import format_setting

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
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

smartquotes_action = "D"  # of dashes alone
highlight_language = "none"  # of what is indented: commands
html_theme = "furo"
html_title = f"nst_jax {version}"


def _as_written(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str, returns: str
) -> tuple[str, str | None] | None:
    """Show a signature as the source has it: shapes, and the names of types instead of their parts.

    Of a class that writes no `__init__` itself nothing but the module of arrays is taken away.
    """
    if thing is nst_jax.Config:
        return "(**settings)", None
    function = vars(thing).get("__init__") if isinstance(thing, type) else thing
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError):
        return signature and (signature.replace("jaxlib._jax.", ""), None)
    node = tree.body[0]
    arguments = node.args.posonlyargs or node.args.args
    if arguments and arguments[0].arg == "self":
        arguments.pop(0)
    result = node.returns and what != "class"
    return f"({ast.unparse(node.args)})", ast.unparse(node.returns) if result else None


def _settings(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Put the table of all settings into the docstring of `Config`."""
    if thing is not nst_jax.Config:
        return
    lines += [".. list-table::", "   :header-rows: 1", "", "   * - setting", "     - default"]
    lines += ["     - meaning"]
    for setting in fields(nst_jax.Config):
        choices = [c for arg in get_args(setting.type) for c in (get_args(arg) or (arg,))]
        words = [c for c in choices if isinstance(c, str)]
        allowed = f" One of {', '.join(words)}." if words else ""
        lines += [f"   * - ``{setting.name}``", f"     - {format_setting(setting.default)}"]
        meaning = re.sub(r"--[\w-]+(=\w+)?", r"``\g<0>``", setting.metadata["help"])
        lines += [f"     - {meaning}.{allowed}"]
    lines += [""]


def setup(app: Any) -> None:
    """Connect what is above."""
    app.connect("autodoc-process-signature", _as_written)
    app.connect("autodoc-process-docstring", _settings)
