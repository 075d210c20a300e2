"""Many pictures: what is painted, and what goes together in a batch.

Only files' names and sizes are looked at here; nothing is painted, and nothing written.
"""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from nst_jax.cli.inputs import expand
from nst_jax.cli.names import Picture, check_folder, name_pictures, pair
from nst_jax.cli.options import JobOptions
from nst_jax.config import Config, ResolvedConfig
from nst_jax.devices.backend import default_device
from nst_jax.distributed.collectives import allgather_json
from nst_jax.errors import InputError
from nst_jax.geometry import Shape, fit
from nst_jax.io.images import image_shape
from nst_jax.transfer.estimate import free_memory, need, surely_fits
from nst_jax.transfer.schedule import ScalePlan, Schedule, make_schedule, named

_MOST = 8  # pictures at once on one device
_CPU_MOST, _CPU_PIXELS = 4, 256**2  # on a CPU; larger ones keep its cores busy alone
Key = TypeVar("Key", bound=Hashable)


class Planned(NamedTuple):
    """A picture to paint, and the scales of its run."""

    picture: Picture
    schedule: Schedule

    @property
    def shape(self) -> Shape:
        """(height, width) of the picture in px."""
        return self.schedule.last.shape


class BatchJob(NamedTuple):
    """What is to be done.

    Attributes:
      pictures: all, in order.
      todo: those that are to be painted.
      finished: the files of those that are in the folder already, made from the same.
      faults: a line on what is in the way of pictures that are therefore not among those to paint.
      folder: where the pictures go.
      start: the file that they start from, if there is one.
      asked: the settings as they were asked for.
      sequence: whether they are frames.
    """

    pictures: tuple[Picture, ...]
    todo: tuple[Planned, ...]
    finished: frozenset[Path]
    faults: tuple[str, ...]
    folder: Path
    start: str | None
    asked: Config
    sequence: bool


class Batch(NamedTuple):
    """Pictures painted at once.

    Attributes:
      members: their numbers.
      size: of the batch; what the members do not fill is filled up, so that one program serves all.
    """

    members: tuple[int, ...]
    size: int


def plan_job(options: JobOptions, config: Config, *, warn: Callable[[str], None]) -> BatchJob:
    """Find out everything that a user can get wrong before the work starts.

    Several processes look at the same files, and come to one answer.

    Args:
      options: what the command asks for.
      config: the settings.
      warn: takes a line on what is left out.

    Raises:
      InputError: if something is wrong, other than with single files.
    """
    contents = expand(options.content, role="content", warn=warn)
    styles = expand(options.style, role="style", warn=warn)
    _check_together(options, config, len(styles))
    folder = Path(options.output or "stylized")
    pictures = name_pictures(pair(contents, styles, options.pairs), folder)
    start = [options.start_image] if options.start_image else []
    check_folder(folder, [*contents, *styles, *start])
    for path in start:
        image_shape(path)
    todo, faults, shape_of = [], [], functools.cache(image_shape)
    for picture in pictures:
        try:
            todo.append(Planned(picture, _schedule(picture, config, shape_of)))
        except InputError as error:
            faults.append(str(error))
    seen = [[str(each.picture.output), each.shape, each.schedule.last.styles] for each in todo]
    answers = allgather_json("pictures", seen)
    if any(answer != answers[0] for answer in answers):
        raise InputError(
            "the processes see other images under the same names; give files that all share"
        )
    return BatchJob(
        tuple(pictures),
        tuple(todo),
        frozenset(),
        tuple(faults),
        folder,
        options.start_image,
        config,
        options.sequence,
    )


def _check_together(options: JobOptions, config: Config, styles: int) -> None:
    """Raise InputError for options that do not go together."""
    if config.style_blend and options.pairs:
        raise InputError(
            "style-blend is for a blend of all styles, but with --pairs every picture has one "
            "style; leave one of the two out"
        )
    if config.style_blend and len(config.style_blend) != styles:
        raise InputError(
            f"style-blend has {len(config.style_blend)} shares, but the number of styles is "
            f"{styles}; give one for each"
        )
    which = "--sequence" if options.sequence else no_batch(config)
    if options.batch and options.batch > 1 and which:
        raise InputError(
            f"--batch is {options.batch}, but {which} takes one picture at a time; leave it out"
        )


def _schedule(picture: Picture, config: Config, shape_of: Callable[[str], Shape]) -> Schedule:
    shapes = []
    for path in (picture.content, *picture.styles):
        with named(path):
            shapes.append(shape_of(path))
    content = fit(*shapes[0], config.size, side=config.side)
    names = (picture.content, *picture.styles)
    return make_schedule(content, shapes[1:], config, names=names)


def batch_size(plan: ScalePlan, *, config: ResolvedConfig, devices: int) -> int:
    """Return how many pictures to paint at once: as fits into memory, but no more than pays.

    On a CPU a batch gains with small pictures alone (docs/scaling.md).

    Args:
      plan: of the pictures' last scale.
      config: the settings.
      devices: how many the pictures are spread over.

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
    """Return which setting takes one picture at a time, or nothing."""
    if config.optimizer != "adam":  # L-BFGS would make one problem of a batch
        return f"the optimizer {config.optimizer}"
    if config.tile:
        return "a tile"
    return "the picture best" if config.picture == "best" else ""  # it goes by the sum of losses


def batches(keys: Sequence[Key], most: Callable[[Key], int]) -> list[Batch]:
    """Put pictures with one key together, in batches of one size, and else keep their order.

    Args:
      keys: of each picture, all that a compiled program depends on.
      most: takes a key to the most pictures at once. Where they are fewer or do not come out even,
        the batches are as small as their number allows.
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
