"""Plan many pictures: which pictures are painted, and which form a batch.

The plan reads the names of files and the sizes of images. It paints and writes nothing.
"""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from nst_jax.cli.flags import in_flags
from nst_jax.cli.frames import flow_of
from nst_jax.cli.inputs import expand, subfolders
from nst_jax.cli.names import PictureFiles, check_file, check_folder, name_pictures, pair
from nst_jax.cli.options import JobOptions
from nst_jax.cli.sheet import check_sheet
from nst_jax.config import Config, ResolvedConfig, flag_of
from nst_jax.devices.backend import default_device
from nst_jax.distributed.collectives import allgather_json
from nst_jax.errors import InputError
from nst_jax.geometry import Shape, fit
from nst_jax.io.encoding import check_form
from nst_jax.io.extras import Extras
from nst_jax.io.images import image_shape
from nst_jax.transfer.estimate import free_memory, need, surely_fits
from nst_jax.transfer.schedule import ScalePlan, Schedule, check_shares, make_schedule, named

_MOST = 8  # pictures at once on one device
_CPU_MOST, _CPU_PIXELS = 4, 256**2  # on a CPU; one larger picture keeps all cores busy
Key = TypeVar("Key", bound=Hashable)


class Planned(NamedTuple):
    """A picture to paint, the scales of its run, and what its file carries beside its colors."""

    picture: PictureFiles
    schedule: Schedule
    extras: Extras = Extras()

    @property
    def shape(self) -> Shape:
        """(height, width) of the picture in px."""
        return self.schedule.last.shape


class BatchJob(NamedTuple):
    """The pictures of a command.

    Attributes:
      pictures: all pictures, in order.
      todo: the pictures to paint.
      finished: files that are in the folder already, with the same provenance.
      faults: a line for each reason why pictures are neither painted nor finished.
      folder: the folder of the pictures.
      start: path of the first picture, if one was given.
      asked: the settings before `Config.resolve`.
      sequence: which motion the pictures follow as frames; False: they are no frames.
    """

    pictures: tuple[PictureFiles, ...]
    todo: tuple[Planned, ...]
    finished: frozenset[Path]
    faults: tuple[str, ...]
    folder: Path
    start: str | None
    asked: Config
    sequence: str | Literal[False]


class Batch(NamedTuple):
    """Pictures painted at once.

    Attributes:
      members: positions of the pictures in `BatchJob.todo`.
      size: size of the batch. Repeats of the last member fill it up, so that one compiled program
        serves all batches.
    """

    members: tuple[int, ...]
    size: int


def plan_job(options: JobOptions, config: Config, *, warn: Callable[[str], None]) -> BatchJob:
    """Check everything that a user can get wrong before the work starts; plan the pictures.

    Several processes must see the same files.

    Args:
      options: the options of the command.
      config: the settings.
      warn: takes a line on files that are passed over.

    Raises:
      InputError: if a check fails; what is wrong with a single file is one of the job's faults.
    """
    folder, deep = Path(options.output or "stylized"), not options.sequence
    contents = expand(options.content, role="content", warn=warn, deep=deep, without=folder)
    styles = expand(options.style, role="style", warn=warn)
    _check_together(options, config, len(styles))
    pictures = name_pictures(
        pair(contents, styles, options.pairs),
        folder,
        suffix=options.suffix,
        subfolders=subfolders(contents, options.content),
    )
    start = [options.start_image] if options.start_image else []
    for each in {folder, *(picture.output.parent for picture in pictures)}:
        if each == folder or each.exists():
            check_folder(each, [*contents, *styles, *start])
    check_form(options.suffix, **options.encoding)
    check_file(options, options.suffix)
    for path in start:
        image_shape(path)
    if options.sheet:
        check_sheet(Path(options.sheet), [each.output for each in pictures], [*contents, *styles])
    todo, faults, shape_of = [], [], functools.cache(image_shape)
    for picture in pictures:
        try:
            todo.append(Planned(picture, plan_picture(picture, config, shape_of)))
        except InputError as error:
            faults.append(in_flags(error))
    seen = [[str(each.picture.output), each.shape, each.schedule.last.styles] for each in todo]
    answers = allgather_json("pictures", seen)
    if any(answer != answers[0] for answer in answers):
        raise InputError(
            "the processes see different images under the same names; give files that all share"
        )
    return BatchJob(
        tuple(pictures),
        tuple(todo),
        frozenset(),
        tuple(faults),
        folder,
        options.start_image,
        config,
        options.sequence and f"flow {flow_of(options)}",
    )


def _check_together(options: JobOptions, config: Config, styles: int) -> None:
    """Raise InputError for options that do not go together."""
    given = [x for x in ("style_blend", "style_layer_blend") if getattr(config, x)]
    if given and options.pairs:
        raise InputError(
            f"{flag_of(given[0])} is for a blend of all styles, but with --pairs every picture has "
            "one style; leave one of the two out"
        )
    check_shares(config, styles)
    which = "--sequence" if options.sequence else no_batch(config)
    if options.batch and options.batch > 1 and which:
        raise InputError(
            f"--batch is {options.batch}, but {which} takes one picture at a time; leave it out"
        )


def plan_picture(
    picture: PictureFiles, config: Config, shape_of: Callable[[str], Shape]
) -> Schedule:
    """Return the scales of a picture; without steps, for a picture that gets colors alone.

    Args:
      picture: its files.
      config: the settings.
      shape_of: takes the path of an image to its (height, width) in px.

    Raises:
      InputError: if an image cannot be read, or is too small; it names the image.
    """
    shapes = []
    for path in (picture.content, *picture.styles):
        with named(path):
            shapes.append(shape_of(path))
    content = fit(*shapes[0], config.size, side=config.side)
    if config.color == "style-only":
        return Schedule((ScalePlan(content, 0, tuple(shapes[1:]), None),))
    names = (picture.content, *picture.styles)
    return make_schedule(content, shapes[1:], config, names=names)


def batch_size(plan: ScalePlan, *, config: ResolvedConfig, devices: int) -> int:
    """Return how many pictures to paint at once: as many as fit into memory and save time.

    On a CPU a batch saves time with small pictures only (docs/scaling.md).

    Args:
      plan: the last scale of the pictures.
      config: the settings.
      devices: number of devices that the pictures are spread over.

    Raises:
      InputError: if there is no device.
    """
    if no_batch(config):
        return 1
    if default_device().platform == "cpu" and devices < 2:
        pays = math.prod(plan.shape) <= _CPU_PIXELS
        return _CPU_MOST if pays and surely_fits(plan.shape, config, batch=_CPU_MOST) else 1
    free = free_memory()
    one, two = (need(plan, config=config, batch=n) for n in (1, 2))
    each = max(1, two.device - one.device)
    fitting = 1 + max(0, free.device - one.device) // each
    return int(min(_MOST, fitting)) * max(1, devices)


def no_batch(config: Config) -> str:
    """Return the setting that takes one picture at a time, or an empty text."""
    if config.optimizer != "adam":  # it would take a batch as one problem
        return f"the optimizer {config.optimizer}"
    if config.tile:
        return "a tile"
    if config.on_nan == "backoff":
        return "--on-nan=backoff"
    return (
        "the picture best" if config.picture == "best" else ""
    )  # best would compare sums over the batch


def without_finished(job: BatchJob, parts: Sequence[Batch]) -> tuple[BatchJob, list[Batch]]:
    """Return the batches of which a picture is missing, and the job with their pictures to paint.

    Args:
      job: its pictures to paint may be among the finished ones.
      parts: all batches of them.
    """
    outputs = [each.picture.output for each in job.todo]
    kept = [part for part in parts if {outputs[n] for n in part.members} - job.finished]
    members = sorted(number for part in kept for number in part.members)
    place = {number: i for i, number in enumerate(members)}
    left = job._replace(
        todo=tuple(job.todo[number] for number in members),
        finished=job.finished - {outputs[number] for number in members},
    )
    return left, [part._replace(members=tuple(place[n] for n in part.members)) for part in kept]


def batches(keys: Sequence[Key], most: Callable[[Key], int]) -> list[Batch]:
    """Put pictures of one key together in batches of one size; otherwise keep their order.

    Args:
      keys: for each picture, everything that its compiled program depends on.
      most: takes a key to the largest batch. The batches of a key are as few as that allows, and
        then as small as their number allows.
    """
    groups: dict[Key, list[int]] = {}
    for number, key in enumerate(keys):
        groups.setdefault(key, []).append(number)
    found = []
    for key, members in groups.items():
        count = math.ceil(len(members) / most(key))
        size = math.ceil(len(members) / count)
        found += [Batch(tuple(members[i : i + size]), size) for i in range(0, len(members), size)]
    return sorted(found)  # by their first members
