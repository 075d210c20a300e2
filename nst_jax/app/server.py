"""Serve a page to browsers: from this machine alone, unless asked otherwise."""

import contextlib
import os
import sys
import tempfile
import webbrowser
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nst_jax.app.page import CSS
from nst_jax.errors import InputError, check_installed

if TYPE_CHECKING:
    import gradio as gr

LOOPBACK = "127.0.0.1"
_MOST_BYTES = "64mb"  # of a file that is uploaded
_PAUSE = 0.05  # seconds; that of Gradio on Windows
_FONTS = ["system-ui", "sans-serif"]  # of the browser's own machine


def check_packages(flag: str) -> None:
    """Raise InputError if a package of the page is missing.

    No package calls home: what the page needs comes from this machine.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    check_installed(flag, "gradio", extra="app")


def opened(address: str) -> None:
    """Open a page in the user's browser, if there is a screen for it."""
    screens = {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if (screens or sys.platform in ("darwin", "win32")) and sys.stdout.isatty():
        webbrowser.open(address)


@contextlib.contextmanager
def serving(
    make_page: Callable[[], "gr.Blocks"],
    *,
    host: str = LOOPBACK,
    port: int | None = None,
    files: Collection[Path] = (),
) -> Iterator[str]:
    """Serve a page inside, and yield its address.

    Args:
      make_page: returns the page.
      host: the address to listen at; by default this machine's own, which no other one reaches.
      port: the port; by default the first free one from 7860 on.
      files: files that the page offers, wherever they lie.

    Raises:
      InputError: if the port is taken.
    """
    import gradio as gr

    with tempfile.TemporaryDirectory(prefix="nst-jax-page-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of uploads; read when a page is made
        try:
            page = make_page()
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                share=False,
                quiet=True,
                show_error=True,
                ssr_mode=False,
                enable_monitoring=False,
                max_file_size=_MOST_BYTES,
                footer_links=[],
                allowed_paths=[str(file.absolute()) for file in files],
                theme=gr.themes.Default(font=_FONTS, font_mono=["ui-monospace", "monospace"]),
                css=CSS,
            )
        except OSError as error:
            raise InputError(f"cannot serve the page at {host}, port {port}: {error}") from None
        # Gradio asks a thousand times a second for something to do, which takes 4 % of two cores.
        page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = _PAUSE
        try:
            yield address
        finally:
            page.close(verbose=False)
