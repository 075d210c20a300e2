"""Paint batches of pictures one after the other, and save them."""

import contextlib
import functools
import hashlib
import operator
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.markup import escape

from nst_jax.cli.batch_plan import Batch, BatchJob, Planned
from nst_jax.cli.console import (
    SECONDS,
    is_out_of_memory,
    not_finite,
    print_header,
    save_or_rescue,
    show_progress,
    size_text,
)
from nst_jax.cli.flags import EXIT_FAILURE, EXIT_USAGE, in_flags
from nst_jax.cli.frames import Past, flow_of, moved
from nst_jax.cli.manifest import ROLES, choices, make_manifest, note_of, save_beside
from nst_jax.cli.names import PictureFiles
from nst_jax.cli.options import JobOptions
from nst_jax.cli.output import warn
from nst_jax.config import ResolvedConfig
from nst_jax.distributed.collectives import allgather_json
from nst_jax.errors import InputError
from nst_jax.geometry import resample
from nst_jax.io.arrays import digest
from nst_jax.io.checkpoint import CheckpointStore
from nst_jax.io.extras import load_extras
from nst_jax.io.images import load_image, save_image
from nst_jax.io.provenance import Provenance
from nst_jax.losses.objective import Losses
from nst_jax.network.vgg import VGG
from nst_jax.transfer.initial_image import first_picture
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.transfer.saver import FREE
from nst_jax.transfer.schedule import Schedule, make_schedule, named
from nst_jax.transfer.stylize import stylize


class _Inputs(NamedTuple):
    """The images of a picture.

    Attributes:
      content: the content image.
      styles: the style images.
      start: the first picture, if it is not that of the settings.
      previous: of a frame the result before, as it lies in this one.
      seen: where that counts.
    """

    content: np.ndarray
    styles: list[np.ndarray]
    start: np.ndarray | None = None
    previous: np.ndarray | None = None
    seen: np.ndarray | None = None


@dataclass
class BatchPainter:
    """Paints one batch after the other, and collects the finished files and the faults.

    Attributes:
      faults: a line on each fault, with its exit code.
      saved: the files that are finished.
      total: the number of pictures that this process's progress counts to.
    """

    job: BatchJob
    options: JobOptions
    config: ResolvedConfig
    network: VGG
    devices: Sequence[Any]
    console: Console
    made_from: Callable[[PictureFiles], Provenance]
    stopped: Callable[[], int]
    faults: dict[str, int]
    saved: set[Path]
    total: int

    def paint_all(self, parts: Sequence[Batch]) -> int:
        """Paint the batches of this process, and wait for the other processes.

        Returns:
          The signal that stopped the job, or 0.
        """
        for part in parts:
            self.paint([self.job.todo[number] for number in part.members], part.size)
            if self.stopped():
                break
        found = [self.faults, [str(path) for path in self.saved]]
        for theirs, saved in allgather_json("found", found, meanwhile=self.stopped):
            self.faults.update(theirs)
            self.saved.update(map(Path, saved))
        return self.stopped()

    def paint(self, members: Sequence[Planned], size: int) -> None:
        """Paint pictures of one shape as a batch; if that fails, paint each alone.

        Args:
          members: the pictures.
          size: size of the batch, which repeats of the last picture fill up.
        """
        before = self._before(members[0].picture) if self.options.sequence else None
        config = self.config
        if before:  # then the last scale is enough
            config = replace(config, min_size=0)
            members = [each._replace(schedule=_planned(each, config)) for each in members]
        loaded, inputs = self._load_all(members, before, alone=size == 1)
        if not loaded:
            return
        inputs += inputs[-1:] * (size - len(inputs))
        with self._checkpoints(loaded, inputs, config, before=bool(before)) as store:
            self._paint(loaded, inputs, config, store)
            if store and all(each.picture.output in self.saved for each in loaded):
                store.delete()

    def _paint(
        self,
        loaded: Sequence[Planned],
        inputs: Sequence[_Inputs],
        config: ResolvedConfig,
        store: CheckpointStore | None,
    ) -> None:
        began, size = time.perf_counter(), len(inputs)
        last = fault = None
        try:
            last = self._run(loaded, inputs, config, store)
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(error):
                raise
            fault = f"out of memory at {size_text(loaded[0].shape)} px"
            advice = "a smaller --size"
        if last and not last.finite:
            fault, advice = not_finite(last, self.config)
        if fault and size > 1:
            warn(f"{fault}, {size} pictures at once; going on with each alone")
            for each in loaded:
                if not self.stopped():
                    self.paint([each], 1)
        elif fault:
            self.faults[f"{loaded[0].picture.output}: {fault}; give {advice}"] = EXIT_FAILURE
        elif last and last.step == loaded[0].schedule.steps:  # else it was stopped
            self._save(loaded, last, time.perf_counter() - began)

    @contextlib.contextmanager
    def _checkpoints(
        self,
        members: Sequence[Planned],
        inputs: Sequence[_Inputs],
        config: ResolvedConfig,
        *,
        before: bool,
    ) -> Iterator[CheckpointStore | None]:
        """Open the checkpoints of a batch in a folder of its own, if they are asked for."""
        if not self.options.checkpoint:
            yield None
            return
        outputs = [member.picture.output.relative_to(self.job.folder) for member in members]
        names = [str(output.with_suffix("")) for output in outputs]
        key = hashlib.sha256(repr((names, len(inputs))).encode()).hexdigest()[:8]
        each = [self.made_from(member.picture) for member in members]
        may_change = (*FREE, *self.options.form)
        about = {name: x for name, x in each[0].items() if name not in may_change}
        about |= choices(config)
        for name in (f"{role} image" for role in ROLES):
            about[name] = [x for made_from in each for x in made_from[name]]
        if before:
            about["start image"] = [digest(inputs[0][2:])]
        folder = Path(self.options.checkpoint, f"{Path(names[0]).name}-{key}")
        with CheckpointStore(folder, fingerprint=about, warn=warn) as store:
            if store.newest:
                text = f"{', '.join(names)} from step {store.newest}"
                print_header(self.console, [("resume", text)])
            yield store

    def _before(self, picture: PictureFiles) -> Past | None:
        """Return the nearest finished frame before this one."""
        frames = [frame for frame in self.job.pictures if frame.run == picture.run]
        now = frames.index(picture) + 1
        numbered = list(enumerate(frames[: now - 1], 1))
        return next(
            (Past(x, number, now) for number, x in reversed(numbered) if x.output in self.saved),
            None,
        )

    def _load_all(
        self, members: Sequence[Planned], before: Past | None, *, alone: bool
    ) -> tuple[list[Planned], list[_Inputs]]:
        """Return the pictures whose images can be loaded, and their images."""
        loaded, inputs = [], []
        for each in members:
            try:
                images = self._load(each, before, alone=alone)
                extras = load_extras(each.picture.content, **self.options.carried)
                self.made_from(each.picture)  # the digests: at the end a file may be gone
                inputs.append(images)
                loaded.append(each._replace(extras=extras))
            except InputError as error:
                self.faults[in_flags(error)] = EXIT_USAGE
        return loaded, inputs

    def _load(self, each: Planned, before: Past | None, *, alone: bool) -> _Inputs:
        picture, last = each.picture, each.schedule.last
        load = functools.partial(load_image, background=self.options.background)
        with named(picture.content):
            content = load(picture.content, shape=last.shape)
        styles = []
        for path, shape in zip(picture.styles, last.styles, strict=True):
            with named(path):
                styles.append(load(path, shape=shape))
        inputs = _Inputs(content, styles)
        if before:
            result = load(before.picture.output, shape=last.shape)
            if flow_of(self.options) == "none":
                return inputs._replace(start=result)
            with named(before.picture.content):
                past = load(before.picture.content, shape=last.shape)
            previous, seen = moved(before, result, content, past, flow=self.options.flow)
            return inputs._replace(previous=previous, seen=seen)
        if self.options.start_image:
            return inputs._replace(start=load(self.options.start_image, shape=last.shape))
        if alone or self.config.start == "content":
            return inputs
        return inputs._replace(start=_draw_start(each.schedule, styles, self.config))

    def _run(
        self,
        members: Sequence[Planned],
        inputs: Sequence[_Inputs],
        config: ResolvedConfig,
        store: CheckpointStore | None,
    ) -> Snapshot[Losses]:
        contents, styles, starts, previous, seen = zip(*inputs, strict=True)
        schedule, done = members[0].schedule, len(self.saved)
        stack = operator.itemgetter(0) if len(inputs) == 1 else np.stack
        snapshots = stylize(
            stack(contents),
            [stack(images) for images in zip(*styles, strict=True)],
            network=self.network,
            config=config,
            start=None if starts[0] is None else stack(starts),
            previous=previous[0],  # frames are no batches
            previous_mask=seen[0],
            snapshot_every=self.options.save_every,
            snapshot_seconds=SECONDS,
            devices=self.devices,
            checkpoints=store,
            checkpoint_seconds=self.options.checkpoint_seconds,
        )

        def save(snapshot: Snapshot[Losses], step: str) -> None:
            for each, image in zip(members, _images(snapshot), strict=False):
                folder = each.picture.output.with_suffix("")
                folder.mkdir(exist_ok=True)
                path = folder / f"{step}{self.options.suffix}"
                save_image(path, image, extras=each.extras, **self.options.encoding)

        numbers = f"{done + 1}" if len(members) == 1 else f"{done + 1}-{done + len(members)}"
        with contextlib.closing(snapshots):
            return show_progress(
                snapshots,
                schedule,
                console=self.console,
                stopped=lambda: bool(self.stopped()),
                save_every=self.options.save_every,
                save=save,
                label=f"{numbers} of {self.total}",
            )

    def _save(self, members: Sequence[Planned], last: Snapshot[Losses], seconds: float) -> None:
        names = []
        images = _images(last)  # with repeats of the last picture at the end
        for number, (each, image) in enumerate(zip(members, images, strict=False)):
            output = each.picture.output
            manifest = make_manifest(
                self.made_from(each.picture),
                last,
                preset=self.options.preset,
                config=self.config,
                devices=len(self.devices),
                member=number if np.ndim(last.image) == 4 else None,
            )
            note = note_of(manifest, embed=self.options.manifest)
            # Before the picture, which says that all is done.
            fault = save_beside(output, manifest) if self.options.json else ""
            lost = save_or_rescue(
                output, image, note=note, extras=each.extras, **self.options.encoding
            )
            if fault := lost or fault:
                self.faults[fault] = EXIT_FAILURE
            else:
                self.saved.add(output)
                names.append(str(output))
        done, total = len(self.saved), self.total
        if names:
            line = f"wrote    {', '.join(names)} in {seconds:.1f} s, {done} of {total}"
            self.console.print(escape(line))


def _planned(each: Planned, config: ResolvedConfig) -> Schedule:
    """Return the schedule of a picture with other settings."""
    return make_schedule(each.shape, each.schedule.last.styles, config)


def _images(snapshot: Snapshot[Losses]) -> Float[np.ndarray, "batch height width 3"]:
    images = np.asarray(snapshot.image)
    return images if images.ndim == 4 else images[None]


def _draw_start(
    schedule: Schedule, styles: Sequence[np.ndarray], config: ResolvedConfig
) -> np.ndarray:
    """Draw a first picture as `stylize` does for a picture alone, whatever else is in the batch."""
    first, kind = schedule.scales[0], config.image_dtype
    small = [
        jnp.clip(resample(jnp.asarray(style, kind), shape), 0, 1)
        for style, shape in zip(styles, first.styles, strict=True)
    ]
    blank = jnp.zeros((*first.shape, 3), kind)
    return np.asarray(first_picture(blank, small, None, replace(config, start_blend=1.0)))
