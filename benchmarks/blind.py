"""Look at pictures without knowing whose they are: `python -m benchmarks.blind quality.json`.

Writes a page in one file: two programs' pictures of a pair and its two images, on random sides, and
three questions. It saves the answers as a file. `--table answers.json` prints who is preferred, and
how often each judge of `benchmarks.quality` agrees with the answers.
"""

import argparse
import base64
import hashlib
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from rich.console import Console

from benchmarks.output import cells
from benchmarks.verdicts import STYLE, UNCHANGED, Verdict, programs
from nst_jax.cli.flags import Parser, exit_code, positive_int
from nst_jax.errors import InputError
from nst_jax.io.files import atomic_write, check_writable

PROGRAM = "benchmarks.blind"
QUESTIONS: Mapping[str, str] = MappingProxyType(
    {
        "content": "Which one keeps more of the content?",
        "style": "Which one is closer to the style?",
        "wall": "Which one would you hang up?",
    }
)
_SHARES = {"left": 1.0, "right": 0.0, "equal": 0.5}  # of the left one
_AGREEMENT = (
    "In how many comparisons the judge prefers the same picture, and in how many that was the left "
    "one. Far from half, the side has a say: let as many people answer with the sides swapped "
    "(--seed).\n"
)
_ROUNDS = 10_000
_PRIOR = 0.5  # wins of each side of each comparison, so that who always wins has a strength, too


class Trial(NamedTuple):
    """A comparison of two pictures of a pair."""

    left: Verdict
    right: Verdict


class Answer(NamedTuple):
    """What was said of a comparison, for one question; `share` is 1 for left, ½ for cannot say."""

    trial: Trial
    question: str
    share: float


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Look at pictures without knowing whose they are.")
    add = parser.add_argument
    add("report", metavar="quality.json", help="of benchmarks.quality, in its folder")
    add("--output", default="blind.html", metavar="PATH", help="the page (default: %(default)s)")
    seed = positive_int(least=0)
    text = "of order and sides; an odd one swaps the sides of the one before (default: 0)"
    add("--seed", type=seed, default=0, metavar="N", help=text)
    add("--table", nargs="+", metavar="FILE", help="print the table of these answers, no page")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    flags = _parser().parse_args(argv)
    return exit_code(PROGRAM, lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    verdicts, folder = _verdicts(Path(flags.report)), Path(flags.report).parent
    console = Console(highlight=False, soft_wrap=True, markup=False)
    if flags.table:
        answers = [each for path in flags.table for each in read_answers(path, verdicts)]
        console.print(table(answers), end="")
        return 0
    check_writable(flags.output, what="the page")
    text = page(folder, verdicts, seed=flags.seed)
    with atomic_write(flags.output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    console.print(f"wrote {flags.output} with {len(draw(verdicts, seed=flags.seed))} comparisons")
    return 0


def _read(path: str | Path, what: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {what} {str(path)!r}: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{what} {str(path)!r} is no JSON") from None


def _verdicts(path: Path) -> list[Verdict]:
    found = _read(path, "the report")
    try:
        verdicts = [Verdict(**each) for each in found["verdicts"]]
    except (KeyError, TypeError):
        raise InputError(f"{str(path)!r} is no report of benchmarks.quality") from None
    if len(programs(verdicts)) < 2:
        raise InputError(f"{str(path)!r} has fewer than two programs; there is nothing to compare")
    return verdicts


def draw(verdicts: Sequence[Verdict], *, seed: int) -> list[Trial]:
    """Return every two programs' pictures of each pair, in random order and on random sides.

    The pictures are those at the programs' own content weights. An odd seed shows what the even one
    before it does, with the sides swapped: who leans to one side then does no harm.
    """
    own = [each for each in verdicts if each.factor == 1 and each.program in programs(verdicts)]
    trials = [Trial(a, b) for a, b in itertools.combinations(own, 2) if a[:2] == b[:2]]
    rng = np.random.default_rng(seed // 2)
    turned = (rng.random(len(trials)) < 0.5) ^ bool(seed % 2)
    return [
        Trial(*trials[number][::-1]) if turned[number] else trials[number]
        for number in rng.permutation(len(trials))
    ]


def _key(trials: Sequence[Trial]) -> str:
    """Return what tells one list of comparisons from another, without their names."""
    names = [each.picture for trial in trials for each in trial]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


def page(folder: Path, verdicts: Sequence[Verdict], *, seed: int) -> str:
    """Return the page; its source says no program's name.

    Raises:
      InputError: if a picture cannot be read.
    """
    trials = draw(verdicts, seed=seed)
    inputs = {(each.program, *each[:2]): each.picture for each in verdicts}
    shown = [
        {
            "left": trial.left.picture,
            "right": trial.right.picture,
            "content": inputs[UNCHANGED, *trial.left[:2]],
            "style": inputs[STYLE, *trial.left[:2]],
        }
        for trial in trials
    ]
    names = list(dict.fromkeys(path for each in shown for path in each.values()))
    try:
        pictures = [base64.b64encode((folder / x).read_bytes()).decode() for x in names]
    except OSError as error:
        raise InputError(f"cannot read {error.filename!r}: {error.strerror}") from None
    data = {
        "key": _key(trials),
        "seed": seed,
        "questions": dict(QUESTIONS),
        "pictures": pictures,
        "trials": [{role: names.index(path) for role, path in each.items()} for each in shown],
    }
    source = Path(__file__).with_name("blind.html").read_text(encoding="utf-8")
    return source.replace("$data", json.dumps(data))


def read_answers(path: str, verdicts: Sequence[Verdict]) -> list[Answer]:
    """Return the answers of a file that the page has saved.

    Raises:
      InputError: if it is none, or of other pictures.
    """
    found = _read(path, "the answers")
    try:
        trials = draw(verdicts, seed=found["seed"])
        if found["key"] != _key(trials):
            raise InputError(f"the answers {path!r} are about other pictures than the report")
        return [
            Answer(trials[int(number)], question, _SHARES[side])
            for number, sides in found["answers"].items()
            for question, side in sides.items()
            if question in QUESTIONS
        ]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path!r} is no file of answers that the page has saved") from None


def table(answers: Sequence[Answer]) -> str:
    """Return two tables: the strength of each program, and how the judges agree."""
    names = list(dict.fromkeys(each.program for answer in answers for each in answer.trial))
    if not names:
        return "There are no answers.\n"
    strengths = {question: bradley_terry(wins(answers, question, names)) for question in QUESTIONS}
    lines = [cells(["program", *QUESTIONS.values()]), cells(["---", *["---:"] * len(QUESTIONS)])]
    for number, name in enumerate(names):
        lines.append(cells([name, *(f"{found[number]:.2f}" for found in strengths.values())]))
    lines += ["", "Bradley-Terry strengths, whose geometric mean is 1: a program of strength a is "]
    lines[-1] += "preferred to one of strength b with the probability a/(a + b). Each comparison "
    lines[-1] += "counts as half a win more for both.\n"
    lines += [cells(["judge", *QUESTIONS.values()]), cells(["---", *["---:"] * len(QUESTIONS)])]
    for judge in answers[0].trial.left.distances:
        found = [agreement(answers, judge, question) for question in QUESTIONS]
        lines.append(cells([judge, *(f"{same} of {of}" for same, of in found)]))
    sides = [left(answers, question) for question in QUESTIONS]
    lines.append(cells(["the left side", *(f"{here} of {of}" for here, of in sides)]))
    return "\n".join([*lines, "", _AGREEMENT])


def wins(
    answers: Sequence[Answer], question: str, names: Sequence[str]
) -> Float[np.ndarray, "n n"]:
    """Return how often each program was preferred to each other one; "cannot say" is half a win."""
    found = np.zeros((len(names), len(names)))
    for each in answers:
        if each.question == question:
            left, right = (names.index(side.program) for side in each.trial)
            found[left, right] += each.share + _PRIOR
            found[right, left] += 1 - each.share + _PRIOR
    return found


def bradley_terry(wins: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """Return the likeliest strengths, with the geometric mean 1.

    Args:
      wins: how often the program of the row was preferred to that of the column.

    Source: Hunter, "MM algorithms for generalized Bradley-Terry models" (2004), equation 3.
    """
    strength = np.ones(len(wins))
    games = wins + wins.T
    for _ in range(_ROUNDS):
        before = strength
        weight = (games / (strength[:, None] + strength)).sum(1)
        strength = np.where(weight > 0, wins.sum(1) / np.where(weight > 0, weight, 1), strength)
        strength = strength / np.exp(np.mean(np.log(np.maximum(strength, 1e-300))))
        if np.abs(strength - before).max() < 1e-12:
            break
    return strength


def agreement(answers: Sequence[Answer], judge: str, question: str) -> tuple[int, int]:
    """Return in how many comparisons a judge prefers the same picture, and of how many.

    Answers of "cannot say" are left out.
    """
    decided = _decided(answers, question)
    same = sum(
        (each.trial.left.distances[judge] < each.trial.right.distances[judge]) == (each.share == 1)
        for each in decided
    )
    return same, len(decided)


def left(answers: Sequence[Answer], question: str) -> tuple[int, int]:
    """Return in how many comparisons the left picture was preferred, and of how many."""
    decided = _decided(answers, question)
    return sum(each.share == 1 for each in decided), len(decided)


def _decided(answers: Sequence[Answer], question: str) -> list[Answer]:
    return [each for each in answers if each.question == question and each.share != 0.5]


if __name__ == "__main__":
    sys.exit(main())
