"""Run the reliability suite, and write its table: `python tests/reliability`.

With arguments for pytest, as `-k images`, only these tests run, and their table is printed alone.
"""

import datetime
import inspect
import json
import os
import platform
import sys
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- written by python tests/reliability -->", "<!-- end -->"
_PACKAGES = ("jax", "numpy", "pillow", "safetensors", "orbax-checkpoint", "pytest")


class Results:
    """What pytest reports of each test function: promise, cases, outcomes; and of long runs."""

    def __init__(self):
        self.promises: dict[str, str] = {}
        self.cases: Counter[str] = Counter()
        self.outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.memory: list[tuple[str, list[tuple[int, float]]]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        name = f"{item.path.relative_to(HERE).as_posix()}::{item.originalname}"
        promise = (inspect.getdoc(item.function) or "").partition("\n")[0]
        self.promises.setdefault(name, promise)
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[name][report.outcome] += 1
        if report.when == "call" and report.passed:
            found = dict(report.user_properties)
            self.cases[name] += int(found.get("cases", 1))
            if "memory" in found:
                self.memory.append(json.loads(found["memory"]))
            if "peak" in found:
                self.promises[name] += f" ({found['peak']})"
        return report

    def table(self) -> str:
        """Return the table in Markdown."""
        rows = ["| promise | test | cases | result |", "| --- | --- | ---: | --- |"]
        for name, promise in self.promises.items():
            result = ", ".join(f"{n} {outcome}" for outcome, n in self.outcomes[name].items())
            if set(self.outcomes[name]) == {"passed"}:
                result = "passed"
            rows.append(f"| {promise} | `{name}` | {self.cases[name]:,} | {result} |")
        return "\n".join([*rows, f"| all | | {self.cases.total():,} | |"])


def circumstances() -> str:
    """Return when and on what the suite ran, in one line."""
    memory = psutil.virtual_memory().total / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return (
        f"{datetime.date.today()}, {os.cpu_count()} CPU cores ({platform.machine()}), "
        f"{memory:.0f} GiB of memory, {platform.system()}, Python {platform.python_version()}, "
        f"{packages}"
    )


def write(table: str) -> None:
    """Put the table between the two markers of the page."""
    before, begin, rest = PAGE.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE} lacks the markers {BEGIN} and {END}")
    page = f"{before}{BEGIN}\n\nThe last full run: {circumstances()}.\n\n{table}\n\n{END}{after}"
    PAGE.write_text(page)


def plot(memory: list[tuple[str, list[tuple[int, float]]]], path: Path) -> None:
    """Plot the memory of long runs over the pictures that they have painted."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    for name, samples in memory:
        axes.plot(*zip(*samples, strict=True), label=name)
    axes.set(xlabel="pictures painted by one process", ylabel="memory in MiB", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=150)


def main(given: list[str]) -> int:
    """Run the tests; return pytest's exit code."""
    results = Results()
    code = pytest.main([str(HERE), "-n0", "-m", "", "-q", *given], plugins=[results])
    print(results.table())
    if not given and code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        write(results.table())
        plot(results.memory, PAGE.with_suffix(".png"))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
