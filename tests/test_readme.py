"""README's commands are what the project promises: they must exist and stay runnable."""

import re
import shlex
from pathlib import Path

from nst_jax import cli, crosscheck

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^(pip install .*)$", README, re.M)


def test_the_two_commands():
    main_job = next(c for c in COMMANDS if "main.py" in c)
    assert main_job.startswith("pip install . && python main.py ")
    assert "pip install '.[test]' && pytest" in COMMANDS  # .ci/run runs this very line


def test_every_main_command_parses_and_its_files_exist():
    commands = re.findall(r"python main\.py (--content.*)$", README, re.M)
    assert commands
    for command in commands:
        flags = cli._parser().parse_args(shlex.split(command))
        for path in (flags.content, *flags.style):
            assert (ROOT / path).exists() or not path.startswith("png/")


def test_every_crosscheck_command_parses_and_its_files_exist():
    commands = re.findall(r"python -m nst_jax\.crosscheck (--content.*)$", README, re.M)
    assert commands
    for command in commands:
        flags = crosscheck._parser().parse_args(shlex.split(command))
        assert (ROOT / flags.content).exists()
        assert (ROOT / flags.style).exists()


def test_every_linked_file_exists():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
