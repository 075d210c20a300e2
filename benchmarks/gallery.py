"""Make a contact sheet of pictures by several recipes: `python -m benchmarks.gallery`.

Each row is a pair of a content and a style image, each column a recipe: the name of a preset and
flags of the main job, as in `--recipes default "crowson --steps=100"`.
"""

import argparse
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.console import Console

from nst_jax.cli import main as cli
from nst_jax.cli.flags import Parser, exit_code, positive_int
from nst_jax.devices.backend import device_name
from nst_jax.errors import InputError
from nst_jax.io.files import check_writable, write_json
from nst_jax.io.images import check_output, load_image, save_image
from nst_jax.io.sheet import contact_sheet

PROGRAM = "benchmarks.gallery"


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description="Make a contact sheet of pictures by recipes.")
    add = parser.add_argument
    add("--content", nargs="+", default=["png/content.png"], metavar="PATH")
    add("--style", nargs="+", default=["png/style.png"], metavar="PATH", help="one for each row")
    add(
        "--recipes",
        nargs="+",
        default=["default", "pytorch"],
        metavar="R",
        help="presets, each with flags of the main job, as in 'crowson --steps=100'",
    )
    add("--beside", nargs="*", default=[], metavar="PATH", help="pictures, one more column each")
    add(
        "--size",
        type=positive_int(least=16),
        default=256,
        metavar="N",
        help="longest side in px (default: 256)",
    )
    add("--weights", default="auto", metavar="W", help="as in the main job (default: auto)")
    add("--output", default="gallery.png", metavar="PATH", help="(default: %(default)s)")
    add("--json", metavar="FILE", help="write the seconds of each picture")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with `argv`, by default the process's; return the exit code."""
    flags = _parser().parse_args(argv)
    return exit_code(PROGRAM, lambda: _run(flags))


def _run(flags: argparse.Namespace) -> int:
    output = Path(flags.output)
    check_output(output)
    if flags.json:
        check_writable(flags.json, what="the file of --json")
    contents = flags.content * (len(flags.style) if len(flags.content) == 1 else 1)
    pairs = list(zip(contents, flags.style, strict=True))
    console, rows, found = Console(highlight=False, soft_wrap=True), [], []
    for content, style in pairs:
        row = [(load_image(content, size=flags.size), "content")]
        row.append((load_image(style, size=flags.size), "style"))
        for recipe in flags.recipes:
            picture, seconds = paint(content, style, recipe, flags.size, flags.weights)
            console.print(f"{content} {style} {recipe}: {seconds:.1f} s")
            row.append((picture, f"{recipe}, {seconds:.0f} s"))
            found.append({"content": content, "style": style, "recipe": recipe, "seconds": seconds})
        row += [(load_image(path, size=flags.size), Path(path).stem) for path in flags.beside]
        rows.append(row)
        save_image(output, contact_sheet(rows))  # after each row, for an interrupted run
    if flags.json:
        report = {"device": device_name(), "size": flags.size, "pictures": found}
        write_json(flags.json, report)
    return 0


def paint(
    content: str, style: str, recipe: str, size: int, weights: str
) -> tuple[Float[np.ndarray, "_ _ 3"], float]:
    """Run the main job; return the picture and the seconds of the run.

    Compilation counts, unless the cache has the program.

    Raises:
      InputError: if the main job fails, which prints its own error.
    """
    name, *more = shlex.split(recipe)
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder, "picture.png"))
        job = [f"--content={content}", f"--style={style}", f"--preset={name}", f"--size={size}"]
        job += [f"--weights={weights}", f"--output={output}", "--quiet", *more]
        began = time.perf_counter()
        if cli.main(job):
            raise InputError(f"the recipe {recipe!r} failed")
        return load_image(output), time.perf_counter() - began


if __name__ == "__main__":
    sys.exit(main())
