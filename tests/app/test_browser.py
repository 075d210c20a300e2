"""The page as a visitor sees it, in headless Chromium, where that is installed."""

import hashlib
import signal

import pytest

from nst_jax import save_image
from nst_jax.cli.manifest import read_manifest
from nst_jax.io.images import image_shape
from page import CHROMIUM, browsing, serving, status

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
SIZE = "#size input[type=number]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photographs):
    folder = tmp_path_factory.mktemp("page")
    for name, image in zip(("content.png", "style.png"), photographs, strict=True):
        save_image(folder / name, image)
    return folder


@pytest.fixture(scope="module")
def address(folder):
    with serving("--weights=untrained", "--max-size=192", folder=folder) as (process, address):
        yield address
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "REACHES OUT" not in process.stderr.read()


def test_a_visitor_paints_and_steers(address, folder):
    with browsing(address, viewport={"width": 1280, "height": 1000}) as (page, hosts):
        page.set_input_files("#content input[type=file]", folder / "content.png")
        page.set_input_files("#styles input[type=file]", folder / "style.png")
        page.locator("#styles img").first.wait_for()
        page.click("#paint")
        status(page, "Painting")
        first = page.locator("#picture img").last.get_attribute("src")
        page.click("#pause")
        assert status(page, "Paused").startswith("Paused: step ")
        page.locator("#content_weight input[type=number]").fill("4")
        page.keyboard.press("Tab")
        page.wait_for_timeout(1500)
        assert status(page, "Paused") == status(page, "Paused")
        page.click("#pause")
        page.wait_for_function(
            "first => [...document.querySelectorAll('#picture img')].at(-1).src != first", arg=first
        )
        page.click("#stop")
        status(page, "Done")
        with page.expect_download() as download:
            page.click("#download")
        download.value.save_as(folder / "picture.png")
        assert download.value.suggested_filename == "stylized.png"
        assert page.locator("#curves canvas, #curves svg").count() > 0
        assert len(hosts) == 1
    manifest = read_manifest(folder / "picture.png")
    digest = hashlib.sha256((folder / "content.png").read_bytes()).hexdigest()
    assert manifest["made from"]["content image"] == [digest]
    ((_, numbers),) = manifest["adjusted"]
    assert numbers == {"content_weight": 12.0}
    assert max(image_shape(folder / "picture.png")) <= 192


@pytest.mark.slow
def test_on_a_phone_by_the_keyboard(address):
    options = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with browsing(address, **options) as (page, _):
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.get_by_role("button", name="mosaic").focus()
        page.keyboard.press("Enter")
        page.locator("#styles img").first.wait_for()
        page.locator("#paint").focus()
        page.keyboard.press("Enter")
        status(page, "Painting")
        handle = page.locator("#picture .icon-wrap")
        before = handle.bounding_box()["x"]
        page.locator("#uncover input[type=range]").focus()
        for _ in range(10):
            page.keyboard.press("ArrowRight")
        page.wait_for_timeout(1000)
        assert handle.bounding_box()["x"] > before + 50
        page.locator("#stop").focus()
        page.keyboard.press("Space")
        assert "stopped before the end" in status(page, "Done")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id"))
        assert {"paint", "download"} <= reached


def test_what_cannot_be_painted_is_said(address, folder):
    (folder / "text.png").write_text("no picture")
    with browsing(address) as (page, _):
        page.click("#paint")
        status(page, "give a content image, and at least one style image")
        assert page.locator("#paint").is_enabled()
        page.set_input_files("#content input[type=file]", folder / "text.png")
        page.set_input_files("#styles input[type=file]", folder / "style.png")
        page.locator("#styles img").first.wait_for()
        page.click("#paint")
        status(page, "cannot load 'text.png': not a readable image (no known image format)")


@pytest.mark.slow
def test_the_same_page_shows_a_run_of_the_command_line(folder):
    flags = ["--content=content.png", "--style=style.png", "--weights=untrained", "--size=64"]
    flags += ["--first-steps=100000", "--output=preview.png"]
    with (
        serving(*flags, folder=folder, app=False) as (process, address),
        browsing(address) as (page, hosts),
    ):
        status(page, "Painting")
        page.locator("#style_weight input[type=number]").fill("2")
        page.keyboard.press("Tab")
        page.wait_for_timeout(1500)
        for _ in range(2):  # the steps under way, and steps that were begun after the change
            before = status(page, "Painting")
            page.wait_for_function(
                "before => document.querySelector('#status').innerText != before", arg=before
            )
        page.click("#stop")
        status(page, "Done")
        assert process.wait(60) == 0
        assert "wrote    preview.png" in process.stdout.read()
        errors = process.stderr.read()
        assert "REACHES OUT" not in errors
        assert "stopped before the end: preview.png is the picture so far" in errors
        assert len(hosts) == 1
    assert read_manifest(folder / "preview.png")["adjusted"][0][1] == {"style_weight": 2.0}
