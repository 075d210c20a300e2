"""The tasks of this folder are what users would write: short, and of public names alone."""

import ast
from pathlib import Path

import pytest

from package import PUBLIC

TASKS = sorted(set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__)})


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_is_short_and_imports_public_names(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            assert all(alias.name.partition(".")[0] != "nst_jax" for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert not node.module.startswith("nst_jax.")
            if node.module == "nst_jax":
                assert {alias.name for alias in node.names} <= set(PUBLIC)
