"""The page: images and settings on one side, the picture as it forms on the other."""

import functools
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nst_jax.app.live import Live
from nst_jax.app.shown import COLORS, loss_table, shown_image, status_html, status_line
from nst_jax.config import Config
from nst_jax.presets import PRESETS, preset

if TYPE_CHECKING:
    import gradio as gr

_LEAST_SIZE, _USUAL_SIZE = 64, 512  # px
# The settings whose sliders act while the picture forms: label, largest multiple of the preset's.
_LIVE: Mapping[str, tuple[str, float]] = {
    "content_weight": ("Content weight", 5.0),
    "style_weight": ("Style weight", 5.0),
    "learning_rate": ("Step size", 3.0),
}
_COLOR_CHOICES = [
    ("of the style", "style"),
    ("of the photograph", "keep"),
    ("of the style, moved to the photograph's", "match"),
]
CSS = """
.gradio-container { max-width: 76rem !important; margin: auto; }
#status progress { width: 100%; height: 0.6rem; accent-color: var(--color-accent); }
#status p { margin: 0.2rem 0; }
#status .note { color: var(--body-text-color-subdued); }
"""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What a visitor asks for.

    Attributes:
      content: the file of the content image; "" if there is none.
      styles: the files of the style images.
      preset: the name of the preset.
      settings: the settings that are not the preset's, by name.
    """

    content: str
    styles: tuple[str, ...]
    preset: str
    settings: Mapping[str, Any]


StartRun = Callable[[Wishes], Live]


class Example(NamedTuple):
    """A name for a content and a style image, and their files."""

    name: str
    content: str
    style: str


class _Run(NamedTuple):
    """The part of the page that shows a run."""

    picture: Any
    status: Any
    pause: Any
    stop: Any
    file: Any
    curves: Any
    sliders: Sequence[Any]

    @property
    def shown(self) -> list[Any]:
        """What a run changes."""
        return [self.picture, self.status, self.pause, self.stop, self.file, self.curves]


class _Job(NamedTuple):
    """A run, with the numbers of which the sliders say multiples."""

    live: Live
    base: Mapping[str, float]

    def steer(self, multiples: Sequence[float]) -> None:
        """Let the numbers be these multiples of the base."""
        if self.live.view.steerable:
            self.live.steer(_multiplied(self.base, multiples))


def _multiplied(base: Mapping[str, float], multiples: Sequence[float]) -> dict[str, float]:
    pairs = zip(base.items(), multiples, strict=True)
    return {name: value * multiple for (name, value), multiple in pairs if multiple != 1}


def base_numbers(config: Config) -> dict[str, float]:
    """Return the numbers of the settings whose sliders act while the picture forms."""
    return {name: getattr(config, name) for name in _LIVE}


class _Form(NamedTuple):
    """The part of the page that takes what a visitor wishes; its last field is the button."""

    content: Any
    styles: Any
    shares: Any
    preset: Any
    size: Any
    style_scale: Any
    color: Any
    button: Any


def painting_page(
    start: StartRun, *, most_size: int, waiting: int, examples: Collection[Example] = ()
) -> "gr.Blocks":
    """Return the page on which visitors paint, one after the other.

    Args:
      start: starts a run in a thread of its own.
      most_size: the largest size of a picture, in px.
      waiting: how many visitors may wait.
      examples: images that the page offers.
    """
    import gradio as gr

    jobs: dict[str | None, _Job] = {}  # of each visitor

    def paint(request: gr.Request, *given: Any) -> Iterator[dict[Any, Any]]:
        wishes = _wishes(*given)
        live = start(wishes)
        jobs[request.session_hash] = _Job(live, base_numbers(preset(wishes.preset)))
        try:
            for update in _updates(live, run):
                ended = live.view.phase == "ended"
                yield update | {form.button: gr.update(interactive=ended)}
        finally:  # also where the visitor has left
            live.stop()
            jobs.pop(request.session_hash, None)

    page: gr.Blocks
    with gr.Blocks(title="nst_jax", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# Paint a photograph in the manner of a painting")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                form = _show_form(most_size, examples)
            with gr.Column(scale=3, min_width=320):
                run = _show_run(status_line("Give both images, and press Paint."))
        *fields, button = form
        button.click(
            paint,
            [*fields, *run.sliders],
            [*run.shown, button],
            concurrency_limit=1,
            show_progress="minimal",
        )
        _wire(run, lambda request: jobs.get(request.session_hash))
    page.queue(max_size=waiting)
    return page


def _show_form(most_size: int, examples: Collection[Example]) -> _Form:
    """Make the part of the page that takes what a visitor wishes."""
    import gradio as gr

    content: Any = gr.Image(
        label="Content: a photograph",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=180,
        elem_id="content",
    )
    # Gradio would open the file itself, and say less clearly what is wrong with it.
    content.preprocess = lambda given: given and given.path
    styles = gr.Gallery(
        label="Style: one painting, or several for a blend",
        type="filepath",
        interactive=True,
        file_types=["image"],
        height=180,
        columns=3,
        elem_id="styles",
    )
    _offer(examples, content, styles)
    label = "Size: the longest side in px"
    usual = min(_USUAL_SIZE, most_size)
    return _Form(
        content,
        styles,
        gr.Textbox(label="Shares of several styles, such as 2,1", placeholder="equal", max_lines=1),
        gr.Dropdown(list(PRESETS), value="default", label="Preset"),
        gr.Slider(_LEAST_SIZE, most_size, value=usual, step=16, label=label, elem_id="size"),
        gr.Slider(0.25, 4, value=1, step=0.05, label="Style scale: larger or smaller strokes"),
        gr.Radio(_COLOR_CHOICES, value="style", label="Colors", elem_id="color"),
        gr.Button("Paint", variant="primary", elem_id="paint"),
    )


def _wishes(
    content: str | None,
    styles: Sequence[tuple[str, Any]] | None,
    shares: str,
    name: str,
    size: float,
    style_scale: float,
    color: str,
    *multiples: float,
) -> Wishes:
    """Return what the form and the sliders say."""
    settings: dict[str, Any] = {"size": int(size), "side": "longest", "style_scale": style_scale}
    settings["color"] = color
    settings |= _multiplied(base_numbers(preset(name)), multiples)
    if shares.strip():
        settings["style_blend"] = shares
    files = tuple(path for path, _ in styles or ())
    return Wishes(content=content or "", styles=files, preset=name, settings=settings)


def _offer(examples: Collection[Example], content: Any, styles: Any) -> None:
    """Make a button for each example, which puts its images where a visitor would."""
    import gradio as gr

    if not examples:
        return
    gr.Markdown("Or take an example:")
    with gr.Row():
        for name, photograph, painting in examples:
            button = gr.Button(name, icon=painting, size="sm", min_width=90)
            images = functools.partial(lambda *pair: pair, photograph, [painting])
            button.click(images, None, [content, styles], queue=False, show_progress="hidden")


def watching_page(live: Live, title: str, config: Config) -> "gr.Blocks":
    """Return the page that shows one run, which is not started from it.

    Args:
      live: the run.
      title: names the picture.
      config: the settings of the run.
    """
    import gradio as gr

    one = _Job(live, base_numbers(config))
    page: gr.Blocks
    with gr.Blocks(title="nst_jax", analytics_enabled=False) as page:
        gr.Markdown(f"# {title}")
        run = _show_run(status_html(live.view))

        def follow() -> Iterator[dict[Any, Any]]:
            for update in _updates(live, run):
                steerable = gr.update(interactive=live.view.steerable)
                yield update | dict.fromkeys(run.sliders, steerable)

        shown = [*run.shown, *run.sliders]
        page.load(follow, None, shown, concurrency_limit=None, show_progress="minimal")
        _wire(run, lambda request: one)
    return page


def _sliders() -> list[Any]:
    import gradio as gr

    gr.Markdown("These act while the picture forms, too; 1 changes nothing.")
    with gr.Row():
        return [
            gr.Slider(0.1, most, value=1, step=0.05, label=label, min_width=220, elem_id=name)
            for name, (label, most) in _LIVE.items()
        ]


def _show_run(status_text: str) -> _Run:
    """Make the part of the page that shows a run, with its first status."""
    import gradio as gr

    picture = gr.ImageSlider(
        label="Photograph | picture",
        interactive=False,
        format="jpeg",
        max_height=480,
        slider_position=0,
        elem_id="picture",
    )
    # The handle on the picture takes no keys.
    uncover = gr.Slider(0, 100, value=0, step=5, label="Uncover the photograph", elem_id="uncover")
    uncover.input(
        lambda share: gr.update(slider_position=share),
        uncover,
        picture,
        queue=False,
        show_progress="hidden",
        trigger_mode="always_last",
    )
    status = gr.HTML(status_text, elem_id="status")
    with gr.Row():
        pause = gr.Button("Pause", interactive=False, elem_id="pause")
        stop = gr.Button("Stop and save", interactive=False, elem_id="stop")
        file = gr.DownloadButton("Download", interactive=False, elem_id="download")
    sliders = _sliders()
    curves = gr.LinePlot(
        x="step",
        y="loss",
        color="part",
        color_map=COLORS,
        y_title="log10 of the loss",
        height=220,
        elem_id="curves",
    )
    return _Run(picture, status, pause, stop, file, curves, sliders)


def _wire(run: _Run, find: Callable[["gr.Request"], _Job | None]) -> None:
    """Connect the buttons and sliders with the run that `find` returns."""
    import gradio as gr

    def pause(request: gr.Request) -> None:
        if job := find(request):
            job.live.pause(on=job.live.view.phase != "paused")

    def stop(request: gr.Request) -> None:
        if job := find(request):
            job.live.stop()

    def steer(request: gr.Request, *multiples: float) -> None:
        if job := find(request):
            job.steer(multiples)

    at_once: Any = {"queue": False, "show_progress": "hidden"}
    run.pause.click(pause, None, None, **at_once)
    run.stop.click(stop, None, None, **at_once)
    for slider in run.sliders:
        slider.input(steer, [*run.sliders], None, trigger_mode="always_last", **at_once)


def _updates(live: Live, run: _Run) -> Iterator[dict[Any, Any]]:
    """Yield what changes on the page, until the run has ended."""
    with live.watched(), tempfile.TemporaryDirectory(prefix="nst-jax-shown-") as folder:
        yield from _changes(live, run, Path(folder, "photograph.jpg"))


def _changes(live: Live, run: _Run, photograph: Path) -> Iterator[dict[Any, Any]]:
    import gradio as gr

    version, shown = -1, None
    while True:
        view = live.wait(version, seconds=60.0)
        if view.version == version:
            continue
        running, ended = view.phase in ("painting", "paused"), view.phase == "ended"
        changes: dict[Any, Any] = {
            run.status: status_html(view),
            run.pause: gr.update(
                value="Go on" if view.phase == "paused" else "Pause", interactive=running
            ),
            run.stop: gr.update(interactive=running and not live.stopped),
            run.file: gr.update(value=view.file and str(view.file), interactive=bool(view.file)),
        }
        if view.last is not shown and view.content is not None and view.last:
            shown = view.last
            if not photograph.exists():
                shown_image(view.content, view.content).save(photograph, quality=90)
            changes[run.picture] = str(photograph), shown_image(view.last.image, view.content)
            if len(view.rows) > 1:  # of no points the plot would take the axes to be words
                changes[run.curves] = loss_table(view.rows)
        yield changes
        if ended:
            return
        version = view.version
