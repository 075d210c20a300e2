"""The blind look: which pictures are shown, what the page gives away, and the strengths."""

import json
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

# Last, so that an installed nst_jax is still what is tested.
sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import blind
from benchmarks.verdicts import CONTROLS
from commands import run
from nst_jax import save_image
from nst_jax.io.images import draw_image
from page import CHROMIUM

NAMES = ("oils", "chalk", "crayon")


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Two pairs, three programs; a judge to the style ranks them as they are named."""
    monkeypatch.chdir(tmp_path)
    verdicts, number = [], 0
    for content, style in (("a", "s"), ("b", "t")):
        for program in (*CONTROLS, *NAMES):
            for factor in (1.0,) if program in CONTROLS else (0.5, 1.0):
                number += 1
                save_image(f"{number}.png", draw_image(number, 8, 8))
                distance = NAMES.index(program) + 1 if program in NAMES else 0
                found = {"content": content, "style": style, "program": program, "factor": factor}
                found |= {"picture": f"{number}.png"}
                verdicts.append(found | {"distances": {"rank": distance, "back": -distance}})
    Path("quality.json").write_text(json.dumps({"verdicts": verdicts}))
    return verdicts


def page_data():
    text = Path("blind.html").read_text()
    return text, json.loads(text.partition('type="application/json">')[2].partition("</script>")[0])


def test_every_two_programs_of_a_pair_are_compared_once(report, capsys):
    assert run(blind.main, ["quality.json"]) == 0
    assert capsys.readouterr().out == "wrote blind.html with 6 comparisons\n"
    text, data = page_data()
    assert len(data["trials"]) == 2 * 3
    seen = {frozenset((each["left"], each["right"])) for each in data["trials"]}
    assert len(seen) == 6
    assert not any(name in text for name in [*NAMES, *(each["picture"] for each in report)])
    assert "http" not in text  # all is in the file


def test_order_and_sides_are_those_of_the_seed(report):
    verdicts = blind._verdicts(Path("quality.json"))
    draws = [blind.draw(verdicts, seed=seed) for seed in range(0, 400, 2)]
    assert draws[3] == blind.draw(verdicts, seed=6)
    assert all(trial.left[:2] == trial.right[:2] for trial in draws[0])
    assert {each.factor for trial in draws[0] for each in trial} == {1.0}
    left = [
        trial.left.program == "oils" for draw in draws for trial in draw if "oils" in str(trial)
    ]
    assert len(left) == 800
    assert np.mean(left) == pytest.approx(0.5, abs=4 * 0.5 / 800**0.5)  # four deviations
    first = [draw[0].left.content for draw in draws]
    assert np.mean([x == "a" for x in first]) == pytest.approx(0.5, abs=4 * 0.5 / 200**0.5)


def test_an_odd_seed_swaps_the_sides(report):
    verdicts = blind._verdicts(Path("quality.json"))
    for seed in range(0, 20, 2):
        even, odd = (blind.draw(verdicts, seed=x) for x in (seed, seed + 1))
        assert [trial[::-1] for trial in odd] == [tuple(trial) for trial in even]


def answered(prefer):
    """Answer the page as somebody does who sees the programs."""
    run(blind.main, ["quality.json", "--seed=4"])
    _, data = page_data()
    trials = blind.draw(blind._verdicts(Path("quality.json")), seed=4)
    answers = {
        str(number): {question: prefer(trial, question) for question in blind.QUESTIONS}
        for number, trial in enumerate(trials)
    }
    found = {"key": data["key"], "seed": data["seed"], "answers": answers}
    Path("answers.json").write_text(json.dumps(found))
    return found


def by_rank(trial, question):
    if question == "wall":
        return "equal"
    better = trial.left.distances["rank"] < trial.right.distances["rank"]
    return "left" if better == (question == "content") else "right"


def test_the_table_says_who_wins_and_which_judge_agrees(report, capsys):
    answered(by_rank)
    capsys.readouterr()
    assert run(blind.main, ["quality.json", "--table", "answers.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {
        line.split("|")[1].strip(): [x.strip() for x in line.split("|")[2:-1]]
        for line in lines
        if "|" in line
    }
    content, style, wall = (np.array([float(rows[name][i]) for name in NAMES]) for i in range(3))
    assert content[0] > content[1] > content[2]
    np.testing.assert_allclose(content, style[::-1], atol=0.01)
    assert (wall == 1).all()
    assert rows["rank"] == ["6 of 6", "0 of 6", "0 of 0"]
    assert rows["back"] == ["0 of 6", "6 of 6", "0 of 0"]
    here, there = (int(rows["the left side"][i].split()[0]) for i in range(2))
    assert here + there == 6  # the two answers are opposite
    # Two files count twice.
    assert run(blind.main, ["quality.json", "--table", "answers.json", "answers.json"]) == 0
    assert "| rank | 12 of 12 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda found: found | {"key": "0"}, "about other pictures"),
        (lambda found: found | {"answers": {"99": {"wall": "left"}}}, "no file of answers"),
        (lambda found: found | {"answers": {"0": {"wall": "up"}}}, "no file of answers"),
        (lambda found: [], "no file of answers"),
        (lambda found: {"seed": "x"}, "no file of answers"),
    ],
)
def test_answers_that_are_none_are_one_line(report, spoil, said, capsys):
    Path("answers.json").write_text(json.dumps(spoil(answered(by_rank))))
    assert run(blind.main, ["quality.json", "--table", "answers.json"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["absent.json"], "cannot read the report"),
        (["quality.json", "--seed=-1"], "at least 0"),
        (["1.png"], "is no JSON"),
        (["other.json"], "is no report"),
        (["one.json"], "fewer than two programs"),
        (["quality.json", "--output=none/a.html"], "create the folder"),
        (["quality.json", "--table", "absent.json"], "cannot read the answers"),
        (["lost.json"], "cannot read"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(report, flags, said, capsys):
    Path("other.json").write_text("{}")
    one = [each for each in report if each["program"] not in NAMES[1:]]
    Path("one.json").write_text(json.dumps({"verdicts": one}))
    lost = [each | {"picture": "lost.png"} for each in report]
    Path("lost.json").write_text(json.dumps({"verdicts": lost}))
    assert run(blind.main, flags) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not Path("blind.html").exists()


@hypothesis.given(first=st.integers(1, 50), second=st.integers(1, 50))
@hypothesis.settings(max_examples=20)
def test_two_players_have_the_ratio_of_their_wins(first, second):
    strengths = blind.bradley_terry(np.array([[0.0, first], [second, 0.0]]))
    assert strengths[0] / strengths[1] == pytest.approx(first / second, rel=1e-9)
    assert np.prod(strengths) == pytest.approx(1)


def test_the_strengths_behind_exact_shares_are_found():
    """Where every share is the model's, the likeliest strengths are those of the model."""
    strengths = np.array([0.25, 0.5, 1, 2, 4.0])
    games = np.array(
        [[0, 3, 9, 0, 1], [3, 0, 2, 0, 5], [9, 2, 0, 7, 0], [0, 0, 7, 0, 4], [1, 5, 0, 4, 0]]
    )
    wins = games * strengths[:, None] / (strengths[:, None] + strengths)
    np.testing.assert_allclose(blind.bradley_terry(wins), strengths, rtol=1e-8)


def test_a_simulated_ranking_is_found():
    rng = np.random.default_rng(7)
    strengths = np.array([3.0, 1.0, 1 / 3])
    chances = strengths[:, None] / (strengths[:, None] + strengths)
    wins = np.zeros((3, 3))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        wins[i, j] = rng.binomial(2000, chances[i, j])
        wins[j, i] = 2000 - wins[i, j]
    # Four deviations of the logarithm of a ratio that 2000 games know.
    found = np.log(blind.bradley_terry(wins))
    np.testing.assert_allclose(found, np.log(strengths), atol=4 / (2000 * 3 / 16) ** 0.5)


def test_who_never_won_has_a_strength_too():
    assert (blind.bradley_terry(np.array([[0, 2.5], [0.5, 0]])) > 0).all()
    assert (blind.bradley_terry(np.zeros((3, 3))) == 1).all()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
def test_the_page_in_a_browser(report, tmp_path, capsys):
    from playwright.sync_api import sync_playwright

    run(blind.main, ["quality.json", "--seed=4"])
    capsys.readouterr()
    trials = blind.draw(blind._verdicts(Path("quality.json")), seed=4)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((tmp_path / "blind.html").as_uri())
        for trial in trials:
            assert page.evaluate("document.querySelector('#left').naturalWidth") == 8
            for question in blind.QUESTIONS:
                page.check(f"input[name={question}][value={by_rank(trial, question)}]")
            if trial is not trials[-1]:
                page.click("#next")
        assert "Comparison 6 of 6; 6 answered" in page.inner_text("#where")
        page.reload()  # the answers stay
        assert "Comparison 1 of 6; 6 answered" in page.inner_text("#where")
        assert page.is_checked(f"input[name=style][value={by_rank(trials[0], 'style')}]")
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as("answers.json")
        browser.close()
    assert run(blind.main, ["quality.json", "--table", "answers.json"]) == 0
    assert "| rank | 6 of 6 | 0 of 6 | 0 of 0 |" in capsys.readouterr().out
