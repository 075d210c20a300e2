"""The page in a process of its own, which says where it connects to; and a browser."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time

from fast import xla_flags
from ports import free_port

# Says on standard error which names and addresses of other machines it asks for.
_WATCHED = """
import socket, sys
HERE = ("127.0.0.1", "localhost", "::1", "0.0.0.0", None, "")
def watch(name, address_of):
    real = getattr(socket, name)
    def watched(*args, **options):
        address = address_of(args)
        if address not in HERE:
            print("REACHES OUT to", address, file=sys.stderr, flush=True)
        return real(*args, **options)
    setattr(socket, name, watched)
watch("getaddrinfo", lambda args: args[0])
connect = socket.socket.connect
class Socket(socket.socket):
    def connect(self, address):
        if isinstance(address, tuple) and address[0] not in HERE:
            print("REACHES OUT to", address, file=sys.stderr, flush=True)
        return super().connect(address)
socket.socket = Socket
from nst_jax.cli.main import main
sys.exit(main())
"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def environment(folder):
    return {"TMPDIR": str(folder), "XLA_FLAGS": xla_flags()}


@contextlib.contextmanager
def serving(*flags, folder, app=True):
    """Yield the process and the address of its page, which is `nst-jax app` or a --preview."""
    started = [*(["app", f"--port={free_port()}"] if app else ["--preview"]), *flags]
    with subprocess.Popen(
        [sys.executable, "-c", _WATCHED, *started],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | environment(folder) | {"NST_JAX_CACHE": str(folder / "cache")},
    ) as process:
        try:
            line = process.stdout.readline()
            found = re.search(r"(?:painting at|preview) +(http://\S+)", line)
            assert found, line + process.stderr.read()
            yield process, found[1]
        finally:
            process.kill()


@contextlib.contextmanager
def browsing(address, **options):
    """Yield a page of headless Chromium at an address, and the hosts that it has asked."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(**options).new_page()
        hosts = set()
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(address)
        page.wait_for_selector("#pause")
        yield page, hosts
        browser.close()


def status(page, contains, seconds=120):
    """Wait until the page's status contains a text; return the status."""
    end = time.monotonic() + seconds
    while contains not in (text := page.locator("#status").inner_text()):
        assert time.monotonic() < end, f"{contains} is not in {text}"
        page.wait_for_timeout(100)
    return text
