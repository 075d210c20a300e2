"""What a run gives to a scale, and what it asks of one, wherever that computes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float

from nst_jax.config import ResolvedConfig
from nst_jax.losses.objective import Losses
from nst_jax.losses.regions import Masks, StyleMasks
from nst_jax.losses.regularizers import Anchor
from nst_jax.network.vgg import VGG
from nst_jax.optimizers.minimize import Record, State
from nst_jax.scale.windows import Cover

Numbers = Mapping[str, Any]  # by the names of settings
UNCHANGED: Numbers = MappingProxyType({})


class ScaleInputs(NamedTuple):
    """What a scale begins with.

    Attributes:
      content: the content image at the scale's size.
      styles: the style images at their sizes of this scale.
      picture: where to start, of the content's shape.
      network: from `freeze`.
      config: the settings.
      tiles: the windows that the picture is computed in; None: it is computed at once.
      devices: those that compute it at once; None: JAX's default one.
      before: the state at the scale before, if there was one.
      masks: of the content's regions at the scale's size; None: there are no regions.
      style_masks: of each style at its size of this scale; None with no regions.
      anchor: what the picture stays close to, at the scale's size; None: nothing.
    """

    content: Float[Array, "*batch height width 3"]
    styles: Sequence[Float[Array, "*_ _ _ 3"]]
    picture: Float[Array, "*batch height width 3"]
    network: VGG
    config: ResolvedConfig
    tiles: Cover | None = None
    devices: Sequence[Any] | None = None
    before: State | None = None
    masks: Masks | None = None
    style_masks: Sequence[StyleMasks] | None = None
    anchor: Anchor | None = None


@runtime_checkable
class Scale(Protocol):
    """One scale of a run in progress."""

    def advance(
        self, steps: int, *, numbers: Numbers = UNCHANGED
    ) -> tuple[Float[Array | np.ndarray, "..."], Losses | Record]:
        """Make steps; return the picture, not clipped, and the losses of each step.

        Args:
          steps: how many.
          numbers: settings of these steps that differ from the config's, by name.
        """

    def picture(self) -> Float[Array | np.ndarray, "..."]:
        """Return the picture that the steps so far have made, not clipped."""

    def state(self) -> State:
        """Return where the optimization stands, its arrays in the picture's shape."""

    def state_to_save(self) -> State:
        """Return the state as it lies on the devices."""

    def abstract_state(self, rows: int) -> Any:
        """Return the shapes, types and shardings of a state that was saved with so many rows."""

    def load_state(self, state: State) -> None:
        """Go on from a state that was saved; its arrays become the scale's own."""

    @property
    def shared(self) -> bool:
        """Whether all processes hold parts of the state, or there is only one process."""
