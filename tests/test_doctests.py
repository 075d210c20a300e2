"""The examples in docstrings are what Python answers."""

import doctest
import importlib
import importlib.util

import pytest

from package import MODULES

TORCH = importlib.util.find_spec("torch") is not None
TESTED = [module for module in MODULES if TORCH or "pytorch_" not in module]
WITH_EXAMPLES = {
    "Features",
    "Minimizer",
    "VGG19",
    "content_loss",
    "describe_style",
    "gram_matrix",
    "freeze",
    "layers",
    "make_targets",
    "perceptual_loss",
    "preset",
    "run_scales",
    "style_loss",
    "style_statistics",
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


def examples(module):
    module = importlib.import_module(f"nst_jax.{module}")
    return [test for test in Finder().find_in(module) if test.examples]


@pytest.mark.parametrize("module", TESTED)
def test_examples(module):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in examples(module):
        report = []
        runner.run(test, out=report.append)
        assert not report, "".join(report)


def test_who_has_examples():
    found = {test.name.partition(".")[0] for module in TESTED for test in examples(module)}
    assert found >= WITH_EXAMPLES
