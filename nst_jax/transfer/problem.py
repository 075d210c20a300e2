"""A run over scales with a loss, a network and an optimizer of your own."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.errors import InputError
from nst_jax.geometry import Shape, resample
from nst_jax.io.arrays import ImageLike, as_image
from nst_jax.optimizers.minimize import Minimizer, Record, State
from nst_jax.scale.interface import UNCHANGED, Numbers, Scale
from nst_jax.scale.step import CAPACITY
from nst_jax.scale.warm_start import resize_state
from nst_jax.transfer.multiscale import EndScale, Pauses, Snapshot, snapshots
from nst_jax.transfer.saver import Checkpoints, Saver


class Problem(NamedTuple):
    """What is minimized at one scale.

    Attributes:
      minimizer: its variable is the picture.
      args: the further arguments of its loss, such as the targets at this scale.
    """

    minimizer: Minimizer
    args: tuple[Any, ...] = ()


def run_scales(
    start: ImageLike,
    problem: Callable[[Shape], Problem],
    *,
    scales: Sequence[tuple[Shape, int]],
    snapshot_every: int | None = 50,
    snapshot_seconds: float | None = None,
    end_scale: EndScale | None = None,
    checkpoints: Checkpoints | None = None,
    checkpoint_seconds: float = 60.0,
) -> Generator[Snapshot[Record], None, None]:
    """Minimize over scales, from small to large, as `stylize` does.

    Each larger scale begins with the picture of the scale before, enlarged by cubics and projected,
    and with what `resize_state` keeps of the optimizer's state.

    Args:
      start: the first picture, sRGB floats in [0, 1], HWC or NHWC, of any size.
      problem: takes (height, width) of a scale in px to what is minimized there. It is called once
        for each scale. Minimizers that are equal are compiled for each shape once.
      scales: (height, width) and the number of steps of each scale; see `nst_jax.scales`.
      snapshot_every: steps between snapshots; None: a snapshot at the end alone.
      snapshot_seconds: if given, a snapshot is also yielded about this often.
      end_scale: see `stylize`.
      checkpoints: see `stylize`; a store of your own, with your own fingerprint.
      checkpoint_seconds: how often the state is saved, about.

    Yields:
      Snapshots; their `losses` are the minimizer's `Record`, and their image is the minimizer's
      result, clipped to [0, 1].

    Raises:
      InputError: if there is no scale, or the first picture is not an image.

    Examples:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from nst_jax import Minimizer, Problem, run_scales
      >>> minimizer = Minimizer(lambda x, goal: jnp.sum((x - goal) ** 2), optax.sgd(0.25))
      >>> at = lambda shape: Problem(minimizer, (jnp.full((*shape, 3), 0.5),))
      >>> scales = [((4, 6), 3), ((8, 12), 2)]
      >>> for snapshot in run_scales(jnp.zeros((4, 6, 3)), at, scales=scales, snapshot_every=None):
      ...     print(snapshot.step, snapshot.image.shape, float(snapshot.image.max()))
      5 (8, 12, 3) 0.484375
    """
    if not scales:
        raise InputError("there are no scales; give at least one shape with its steps")
    pauses = Pauses(snapshot_every, snapshot_seconds, end_scale)
    job = _Job(as_image(start, role="start"), problem, tuple(scales))
    return snapshots(job, pauses, Saver(checkpoints, checkpoint_seconds))


class _Job(NamedTuple):
    """A `multiscale.Job`."""

    start: Float[Array, "*batch height width 3"]
    problem: Callable[[Shape], Problem]
    scales: tuple[tuple[Shape, int], ...]

    @property
    def steps(self) -> Sequence[int]:
        return [steps for _, steps in self.scales]

    @property
    def optimizer(self) -> None:
        return None

    @property
    def agreed(self) -> bool:
        return False

    def begin(self, number: int, picture: Any, before: Scale | None) -> tuple[Scale, Any]:
        shape = self.scales[number][0]
        picture = resample(self.start if picture is None else picture, shape, method="cubic")
        scale = _ProblemScale(self.problem(shape), picture, before.state() if before else None)
        return scale, scale.picture()

    def shown(self, picture: Any) -> Any:
        return jnp.clip(picture, 0, 1)


class _ProblemScale:
    """A scale that a minimizer computes; see `Scale`."""

    def __init__(self, problem: Problem, picture: Array, before: State | None):
        self._problem = problem
        fresh = problem.minimizer.init(problem.minimizer.project(picture))
        self._state = resize_state(before, fresh) if before else fresh

    def advance(self, steps: int, *, numbers: Numbers = UNCHANGED) -> tuple[Array, Record]:
        minimizer, args = self._problem
        self._state, record = minimizer.run(self._state, steps, *args, capacity=CAPACITY)
        return self.picture(), record

    def picture(self) -> Array:
        picture: Array = self._problem.minimizer.read(self._state)
        return picture

    def state(self) -> State:
        return self._state

    def state_to_save(self) -> State:
        return self._state

    def abstract_state(self, rows: int) -> Any:
        return self._state

    def load_state(self, state: State) -> None:
        self._state = jax.tree.map(jnp.asarray, state)

    @property
    def shared(self) -> bool:
        return bool(jax.process_count() == 1)
