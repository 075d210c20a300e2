"""The comparison with other programs: draws, commands, controls, frontiers, files."""

import json
import math
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

# Last, so that an installed nst_jax is still what is tested.
sys.path.append(str(Path(__file__).parents[1]))

from benchmarks import quality, quality_report, verdicts
from benchmarks.judges import JUDGES
from benchmarks.verdicts import MATCHED, STYLE, UNCHANGED, Verdict
from commands import run
from nst_jax import PRESETS, load_image, save_image
from nst_jax.cli.options import make_parser
from nst_jax.io.images import draw_image

# Blends the two images; notes each run in the file "runs".
BLEND = """
import sys
from PIL import Image
content, style, output, weight = sys.argv[1:]
open("runs", "a").write(weight + " ")
a, b = Image.open(content), Image.open(style)
share = 1 / (1 + float(weight))
Image.blend(a, b.resize(a.size), share).save(output)
"""


@pytest.fixture
def blend(tmp_path, monkeypatch, package):
    """A program, and a folder of two contents and two styles; the runs are in the folder."""
    monkeypatch.chdir(tmp_path)
    for number, (role, name) in enumerate(
        [("content", "a"), ("content", "b"), ("style", "s"), ("style", "t")]
    ):
        (tmp_path / "pairs" / role).mkdir(parents=True, exist_ok=True)
        save_image(
            tmp_path / "pairs" / role / f"{name}.png", draw_image(number, 44, 50 - 2 * number)
        )
    (tmp_path / "blend.py").write_text(BLEND)
    return f"{sys.executable} blend.py {{content}} {{style}} {{output}} {{content_weight*2}}"


FLAGS = ["--pairs=pairs", "--size=40", "--recipes", "--count=2"]


def test_a_comparison_from_pairs_to_files(blend, tmp_path, capsys):
    other = blend.replace("{content_weight*2}", "1.5")  # has no such weight
    flags = [*FLAGS, "--program", f"blend={blend}", "--program", f"other={other}"]
    assert run(quality.main, [*flags, "--output=out"]) == 0
    printed = capsys.readouterr().out
    report = json.loads(Path("out/quality.json").read_text())
    found = [Verdict(**each) for each in report["verdicts"]]
    assert len(found) == 2 * (3 + 3 + 1)
    assert Path("runs").read_text() == "0.5 2.0 8.0 1.5 " * 2
    for each in found:
        assert list(each.distances) == list(JUDGES)
        zeros = {UNCHANGED: "LPIPS", STYLE: "patches"}
        assert all(
            (each.distances[x] == 0) == (program == each.program) for program, x in zeros.items()
        )
    # More weight of the content is nearer to it.
    for pair in {each[:2] for each in found}:
        line = [x.distances["LPIPS"] for x in found if x[:3] == (*pair, "blend")]
        assert line == sorted(line, reverse=True)
    assert Path("out/quality.md").read_text() in printed
    assert "| other | " in printed
    assert load_image("out/quality.png").shape[1] > 400
    height, width, _ = load_image("out/sheet.jpg").shape
    assert (height // 2, width // 5) == pytest.approx((34 + 14, 40), abs=8)
    assert not list(Path("out/pictures").glob("*.part.png"))


def test_pictures_that_are_there_are_kept(blend, tmp_path, capsys):
    """A program fails on its third run; when it is mended, the first two are not made again."""
    script = Path("blend.py")
    broken = "if len(open('runs').read().split()) == 3: sys.exit('out of\\npaint')\n"
    script.write_text(BLEND.replace("a, b =", broken + "a, b ="))
    flags = [*FLAGS, "--count=1", "--output=out", "--program", f"blend={blend}"]
    assert run(quality.main, flags) == 2
    error = capsys.readouterr().err
    assert error == "benchmarks.quality: error: b+s, blend, 4: exit code 1: paint\n"
    assert len(list(Path("out/pictures").iterdir())) == 2
    assert not Path("out/quality.json").exists()
    script.write_text(BLEND)
    assert run(quality.main, flags) == 0
    assert Path("runs").read_text() == "0.5 2.0 8.0 8.0 "
    # Another command makes another picture.
    pair = quality.Pair(Path("out/inputs/content/b.png"), Path("out/inputs/style/s.png"))
    other = quality.template(f"blend={blend.replace('*2', '*5')}")
    assert quality.paint(other, pair, 1.0, Path("out/pictures"), 40).exists()
    assert Path("runs").read_text().endswith(" 8.0 5.0 ")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--program=a"], "it must be NAME=COMMAND"),
        (["--program=a=sh {content} {style}"], "lacks {output}"),
        (["--program=a=sh {content} {style} {output} {sizes}"], "{sizes} is unknown"),
        (["--program=a=sh {content} {style} {output} {content_weight*e}"], "'e' is no number"),
        (["--program=a=sh '{content} {style} {output}"], "no closing quotation"),
        (["--program=content unchanged=sh {content} {style} {output}"], "other names"),
        (["--recipes", "default", "default"], "other names"),
        (["--recipes", "oil"], "preset is 'oil'"),
        (["--recipes", "default --content-weight=much"], "'much' is no number"),
        ([], "there is no program"),
        (["--recipes", "default", "--pairs=none"], "folders content and style"),
        (["--recipes", "default", "--factors", "0"], "not a number above 0"),
        (["--recipes", "default", "--size=16"], "at least 32"),
        (["--recipes", "default", "--seed=-1"], "at least 0"),
        (["--recipes", "default", "--output=blend.py"], "cannot make the folder"),
        (["--program=a=absent {content} {style} {output}"], "cannot run 'absent'"),
        (["--program=a=true {content} {style} {output}"], "left no picture"),
        (["--program=a=cp blend.py {output}{style}{content}"], "a+s, a, 1: exit code 1"),
        (["--program=a=sh -c 'echo x>$0' {output} {style} {content}"], "cannot"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(flags, said, blend, capsys):
    assert run(quality.main, [*FLAGS, "--output=out", *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not list(Path().glob("out/pictures/*"))


def test_pairs_are_drawn_by_the_seed():
    def drawn(seed, count=5):
        return quality.draw_pairs(
            ["a.png", "b.png", "c.png"], ["s", "t", "u"], count=count, seed=seed
        )

    assert drawn(1) == drawn(1)
    assert len({*drawn(1)}) == 5
    assert len({tuple(drawn(seed)) for seed in range(20)}) > 10
    assert len(drawn(1, count=99)) == 9
    assert drawn(1)[0].name == f"{drawn(1)[0].content.stem}+{drawn(1)[0].style.stem}"


@pytest.mark.parametrize("name", PRESETS)
def test_our_commands_are_the_main_job_s(name):
    painter = quality.ours(f"{name} --steps=7", weights="w.safetensors")
    filled = quality.fill(painter, {"python": "python", "size": 99}, factor=2)
    program, *rest = filled
    assert (program, rest[:2]) == ("python", ["-m", "nst_jax"])
    parsed = make_parser().parse_args(rest[2:])
    assert parsed.content_weight == 2 * PRESETS[name].content_weight
    assert (parsed.size, parsed.steps, parsed.preset) == (99, 7, name)
    own = quality.ours(f"{name} --content-weight=5", weights="auto")
    assert "--content-weight=10.0" in quality.fill(own, {}, factor=2)


def verdict(program, *, content=0.5, factor=1.0, pair=("c", "s"), **distances):
    values = dict.fromkeys(JUDGES, 0.5) | {"LPIPS": content} | distances
    return Verdict(*pair, program, factor, f"{program}.png", values)


def test_a_judge_that_ranks_a_control_first_is_dropped():
    controls = [
        verdict(UNCHANGED, content=0.0, patches=0.9, motifs=0.2),
        verdict(MATCHED, content=0.1, patches=0.6, histogram=0.3),
        verdict(STYLE, content=0.8, patches=0.0),
    ]
    programs = [
        verdict("a", histogram=0.4, motifs=0.3, Fréchet=0.4),
        verdict("b", histogram=0.5, motifs=0.4, Fréchet=0.4),
    ]
    found = verdicts.dropped([*controls, *programs])
    assert found == {
        "histogram": "ranks 'colors matched' first: 0.300, the best program 0.400",
        "motifs": "ranks 'content unchanged' first: 0.200, the best program 0.300",
    }
    said = quality_report.distances([*controls, *programs])
    assert "\nDropped: histogram, which ranks 'colors matched' first: 0.300" in said
    assert "\nFréchet: of the whole image's statistics" in said
    compared = quality_report.comparisons([*controls, *programs], seed=0)
    assert "| program | Fréchet | patches |" in compared
    assert "| b | 1.00 (1 of 1; 1) | 1.00 (1 of 1; 1) |" in compared
    far = [each._replace(distances=each.distances | {"LPIPS": 0.9}) for each in programs]
    assert "LPIPS" in verdicts.dropped([*controls, *far])


def frontier(program, pair, scale, contents):
    """The style distance is a line over the content distance."""
    return [
        verdict(program, content=x, factor=factor, pair=pair, patches=scale * (1 - x))
        for factor, x in zip((4.0, 1.0, 0.25), contents, strict=True)
    ]


PAIRS = [(c, s) for c in "cd" for s in "stu"]


@hypothesis.given(
    scales=st.lists(st.floats(0.5, 2), min_size=6, max_size=6),
    shift=st.floats(-0.1, 0.1),
)
@hypothesis.settings(max_examples=20)
def test_at_equal_content_a_ratio_of_lines_is_that_of_their_scales(scales, shift):
    found = []
    for pair, scale in zip(PAIRS, scales, strict=True):
        own = 1 + ord(pair[0]) + ord(pair[1])
        found += frontier("ref", pair, own, (0.2, 0.4, 0.8))
        found += frontier("other", pair, own * scale, (0.35 + shift, 0.5 + shift, 0.65 + shift))
    compared = verdicts.compare(found, "other", "ref", "patches", seed=1)
    expected = math.exp(np.mean(np.log(scales)))  # as many pairs for each style
    assert compared.ratio == pytest.approx(expected, rel=1e-9)
    assert compared.low <= compared.ratio * (1 + 1e-9)
    assert compared.ratio <= compared.high * (1 + 1e-9)
    assert (compared.pictures, compared.of, compared.styles) == (18, 18, 3)


def test_nothing_is_extrapolated():
    ref = frontier("ref", PAIRS[0], 1.0, (0.2, 0.3, 0.4))
    other = frontier("other", PAIRS[0], 2.0, (0.1, 0.3, 0.5))
    compared = verdicts.compare([*ref, *other], "other", "ref", "patches", seed=1)
    assert (compared.pictures, compared.of, compared.ratio) == (1, 3, pytest.approx(2))
    assert math.isnan(compared.low)  # one style
    itself = frontier("itself", PAIRS[0], 0.0, (0.2, 0.3, 0.4))  # the style, at no distance
    assert 0 < verdicts.compare([*ref, *itself], "itself", "ref", "patches", seed=1).ratio < 1e-8
    far = frontier("far", PAIRS[0], 2.0, (0.5, 0.6, 0.7))
    assert verdicts.compare([*ref, *far], "far", "ref", "patches", seed=1) is None


def test_styles_count_alike_however_many_pairs_they_have():
    found = []
    for pair, scale in (("cs", 2.0), ("ds", 2.0), ("es", 2.0), ("ct", 0.5)):
        found += frontier("ref", tuple(pair), 1.0, (0.2, 0.3, 0.4))
        found += frontier("other", tuple(pair), scale, (0.2, 0.3, 0.4))
    compared = verdicts.compare(found, "other", "ref", "patches", seed=1)
    assert compared.ratio == pytest.approx(1)
    # Two styles are drawn as st, ts, ss or tt; the ends are those of ss and tt.
    assert (compared.low, compared.high) == (pytest.approx(0.5), pytest.approx(2))


def test_the_bootstrap_against_the_normal_distribution():
    values = np.random.default_rng(2).normal(3, 1, 400)
    low, high = verdicts.bootstrap(list(values), seed=5)
    error = 1.96 * values.std() / 20
    # 10,000 draws know the ends to about 3 % of the half width; four times that.
    assert (low, high) == pytest.approx(
        (values.mean() - error, values.mean() + error), abs=0.12 * error
    )
    assert verdicts.bootstrap(list(values), seed=5) == (low, high)


@pytest.mark.slow
def test_our_own_pictures_are_made_by_a_process(blend, capfd):
    recipe = "default --min-size=0 --steps=2"
    flags = [
        *FLAGS,
        "--count=1",
        "--recipes",
        recipe,
        "--factors",
        "1",
        "--weights=untrained",
        "--output=out",
    ]
    assert run(quality.main, flags) == 0
    assert f"b+s, {recipe}, 1: LPIPS " in capfd.readouterr().out
