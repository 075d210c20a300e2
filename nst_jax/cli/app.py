"""The page in the browser: `nst-jax app` paints there, `--preview` shows a run there."""

import contextlib
import dataclasses
import functools
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from nst_jax.app.live import Live
from nst_jax.app.page import Example, Wishes, painting_page, watching_page
from nst_jax.app.server import LOOPBACK, check_packages, opened, serving
from nst_jax.cli.flags import Parser, exit_code, in_flags, positive_int
from nst_jax.cli.interrupts import stop_signals
from nst_jax.cli.options import APP, JobOptions, add_options, given_options, option
from nst_jax.cli.output import PROGRAM, heard, make_console
from nst_jax.cli.settings_file import check_settings
from nst_jax.cli.single import paint
from nst_jax.config import Config
from nst_jax.devices.backend import default_device
from nst_jax.errors import InputError

_EXAMPLES = {"painting": "style", "mosaic": "mosaic", "ink": "ink"}  # name, style image
_PATIENCE = 5.0  # seconds for browsers to fetch the last picture of a preview


@dataclasses.dataclass(frozen=True, kw_only=True)
class AppOptions:
    """The options of `nst-jax app`. Each field's flag is in its metadata."""

    host: str = option(
        LOOPBACK,
        "address to listen at; 0.0.0.0: other machines reach the page, too (default: %(default)s)",
        "ADDRESS",
    )
    port: int | None = option(
        None, "port (default: the first free one from 7860 on)", "N", type=positive_int()
    )
    max_size: int = option(
        1024, "largest size of a picture in px (default: %(default)s)", "N", type=positive_int()
    )
    max_seconds: int = option(
        900,
        "a picture stops after so many seconds, and is saved as it is (default: %(default)s)",
        "N",
        type=positive_int(),
    )
    max_waiting: int = option(
        20,
        "most visitors that wait, while one picture after the other is painted (default: "
        "%(default)s)",
        "N",
        type=positive_int(),
    )
    weights: str = option("auto", "see nst-jax --help=all (default: %(default)s)", "W")


def make_parser() -> Parser:
    """Return the parser of the command line of `nst-jax app`."""
    description = "Serve a page for the browser, on which one paints."
    parser = Parser(prog=f"{PROGRAM} {APP}", description=description)
    add_options(parser, AppOptions)
    return parser


def main(argv: Sequence[str]) -> int:
    """Serve the page until a signal comes; return the exit code."""
    options = AppOptions(**given_options(make_parser().parse_args(argv), AppOptions))
    return exit_code(f"{PROGRAM} {APP}", lambda: _serve(options))


def _serve(options: AppOptions) -> int:
    check_packages(f"{PROGRAM} {APP}")
    default_device()  # fails first if JAX finds no device
    with tempfile.TemporaryDirectory(prefix="nst-jax-pictures-") as folder:
        studio, offered = Studio(options, Path(folder)), examples()
        page = functools.partial(
            painting_page,
            studio.start,
            most_size=options.max_size,
            waiting=options.max_waiting,
            examples=offered,
        )
        files = [Path(path) for example in offered for path in (example.content, example.style)]
        served = serving(page, host=options.host, port=options.port, files=files)
        with stop_signals() as received, served as address:
            make_console().print(f"painting at {address} (Ctrl-C ends)")
            opened(address)
            while not received:
                time.sleep(0.5)
            studio.close()
    return 0


def examples() -> list[Example]:
    """Return the examples of this checkout or installation."""
    package = Path(__file__).parents[1]
    for folder in (package.parent / "png", package / "app" / "examples"):
        if (folder / "content.png").exists():
            return [
                Example(name, str(folder / "content.png"), str(folder / f"{style}.png"))
                for name, style in _EXAMPLES.items()
            ]
    return []


class Studio:
    """Paints what visitors wish, one picture at a time.

    Args:
      options: the options of the command.
      folder: takes the pictures.
    """

    def __init__(self, options: AppOptions, folder: Path):
        self._options, self._folder, self._lock = options, folder, threading.Lock()
        self._lives: list[Live] = []

    def start(self, wishes: Wishes) -> Live:
        """Start a run in a thread of its own; remove the pictures of runs that have ended.

        The page has copied them, as visitors come one after the other.
        """
        for ended in (live for live in self._lives if live.view.phase == "ended"):
            if ended.view.file:
                shutil.rmtree(ended.view.file.parent, ignore_errors=True)
        live = Live(seconds=float(self._options.max_seconds))
        self._lives = [*(x for x in self._lives if x.view.phase != "ended"), live]
        threading.Thread(target=self._run, args=(wishes, live), daemon=True).start()
        return live

    def close(self) -> None:
        """Stop what is being painted."""
        for live in self._lives:
            live.stop()
        with self._lock:
            pass

    def _run(self, wishes: Wishes, live: Live) -> None:
        """Paint a picture, and end the run in any case."""
        output = Path(tempfile.mkdtemp(dir=self._folder), "stylized.png")
        files = [path for path in (wishes.content, *wishes.styles, str(output)) if path]

        def note(text: str) -> None:
            for path in files:  # a visitor knows their names, not where they lie here
                text = text.replace(path, Path(path).name)
            live.note(text)

        with self._lock, heard(note):  # the visitor before may have left a moment ago
            try:
                options = self._options_of(wishes)
                if not live.stopped:  # the visitor is still there
                    paint(options, options.asked(), output, live=live)
            except InputError as error:
                note(in_flags(error).removeprefix("--"))
            except Exception as error:
                traceback.print_exc(file=sys.stderr)
                note(f"the program failed: {type(error).__name__}")
            finally:
                jax.clear_caches()  # JAX forgets no size that it has seen
                live.end()

    def _options_of(self, wishes: Wishes) -> JobOptions:
        """Return the options of a command that paints what is wished.

        Raises:
          InputError: for what a visitor can get wrong.
        """
        if not (wishes.content and wishes.styles):
            raise InputError("give a content image, and at least one style image")
        return JobOptions(
            content=[wishes.content],
            style=list(wishes.styles),
            preset=wishes.preset,
            weights=self._options.weights,
            settings=check_settings(wishes.settings).settings,
            metadata=False,  # who passes the picture on has not seen what a photograph tells
            quiet=True,
        )


@contextlib.contextmanager
def preview(options: JobOptions, asked: Config, output: Path) -> Iterator[Live]:
    """Serve the page of --preview while a picture is painted.

    Args:
      options: the options of the command.
      asked: the settings.
      output: the file of the picture.

    Raises:
      InputError: if a package is missing, or there are several processes.
    """
    if jax.process_count() > 1:
        raise InputError("--preview is for one process; leave it out")
    check_packages("--preview")
    live = Live()
    page = functools.partial(watching_page, live, output.name, asked)
    with serving(page, files=[output]) as address, heard(live.note):
        # Standard output may carry the picture.
        make_console(stderr=options.quiet).print(f"preview  {address}")
        opened(address)
        try:
            yield live
        finally:
            live.end()
            live.seen(_PATIENCE)
