"""The examples in docstrings are what Python answers."""

import doctest
import importlib
import importlib.util
from pathlib import Path

import pytest

import nst_jax

TORCH = importlib.util.find_spec("torch") is not None
MODULES = sorted(
    path.stem
    for path in Path(nst_jax.__file__).parent.glob("*.py")
    if TORCH or not path.stem.startswith("pytorch_")
)
WITH_EXAMPLES = {
    "VGG19",
    "content_loss",
    "describe_style",
    "gram_matrix",
    "init",
    "layers",
    "make_targets",
    "perceptual_loss",
    "preset",
    "run",
    "step",
    "style_loss",
    "style_target",
    "style_transfer_loss",
    "total_variation",
}


class Finder(doctest.DocTestFinder):
    """Also finds what `jax.custom_vjp` and `jax.jit` make of a function."""

    def find_in(self, module):
        for thing in vars(module).values():
            if getattr(thing, "__module__", None) == module.__name__:
                yield from self.find(thing, thing.__name__, module, globs={})


def examples(stem):
    name = "nst_jax" if stem == "__init__" else f"nst_jax.{stem}"
    module = importlib.import_module(name)
    return [test for test in Finder().find_in(module) if test.examples]


@pytest.mark.parametrize("stem", MODULES)
def test_examples(stem):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in examples(stem):
        report = []
        runner.run(test, out=report.append)
        assert not report, "".join(report)


def test_who_has_examples():
    found = {test.name.partition(".")[0] for stem in MODULES for test in examples(stem)}
    assert found >= WITH_EXAMPLES
