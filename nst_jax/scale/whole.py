"""One scale of a run in progress: begun with images, advanced some steps at a time."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.config import Config
from nst_jax.devices.backend import block
from nst_jax.devices.sharding import Layout, find_devices, is_shared, lay_out
from nst_jax.losses.objective import Losses
from nst_jax.network.vgg import VGG
from nst_jax.optimizers import minimize
from nst_jax.scale import step as scale_step
from nst_jax.scale.hyperparameters import Program, split_config
from nst_jax.scale.step import Problem
from nst_jax.scale.tiled import Tiled, needs_tiles
from nst_jax.scale.warm_start import carry

_Picture = Float[Array, "*batch height width 3"]
_Style = Float[Array, "*_ _ _ 3"]  # each of another size


@runtime_checkable
class Scale(Protocol):
    """What a run asks of a scale, wherever it computes and keeps its arrays."""

    def advance(self, steps: int) -> tuple[Float[Array | np.ndarray, "..."], Losses]:
        """Make steps; return the picture, not clipped, and the losses of each step."""

    def picture(self) -> Float[Array | np.ndarray, "..."]:
        """Return the picture that the steps so far have made, not clipped."""

    def state(self) -> minimize.State:
        """Return where the optimization stands, its arrays in the picture's shape."""

    def kept(self) -> minimize.State:
        """Return the state as it lies on the devices, to be saved."""

    def blank(self, rows: int) -> Any:
        """Return the shapes, types and shardings of one that was kept with so many rows."""

    def restore(self, state: minimize.State) -> None:
        """Go on from a state that was kept."""

    @property
    def shared(self) -> bool:
        """Whether all processes hold parts of the state, or there is only one process."""


class Whole:
    """A scale whose picture is computed at once, on one device or with a layout over many."""

    def __init__(
        self,
        content: _Picture,
        styles: Sequence[_Style],
        *,
        network: VGG,
        config: Config,
        picture: _Picture,
        before: minimize.State | None = None,
        devices: Sequence[Any] | None = None,
    ):
        """Prepare it; nothing is computed but the targets.

        Args:
          content: at the scale's size.
          styles: as they are looked at beside it.
          network: from `freeze`.
          config: resolved settings.
          picture: where to start.
          before: the state at the scale before, what `state` returned.
          devices: by default JAX's default one; see `find_devices`.
        """
        self._precision, self._height = config.matmul_precision, content.shape[-3]
        found = find_devices(devices)
        self._block = block(found[0].platform)
        self._layout = layout = lay_out(content.shape, found)
        state, self._problem, self._program = begin(
            content, styles, network=network, config=config, picture=picture, layout=layout
        )
        if before:
            carried = carry(before, layout.gather(state) if layout else state)
            state = layout.place_state(carried) if layout else carried
        self._state = state

    def advance(self, steps: int) -> tuple[Float[Array | np.ndarray, "..."], Losses]:
        """Make steps in one call to the device."""
        with jax.default_matmul_precision(self._precision):
            self._state, picture, losses = scale_step.advance(
                self._state,
                steps,
                self._problem,
                self._program,
                layout=self._layout,
                block=self._block,
            )
        if self._layout:
            picture, losses = self._layout.gather((picture, losses))
        return picture, losses

    def picture(self) -> Float[Array | np.ndarray, "..."]:
        """Return the picture that the steps so far have made."""
        return self.advance(0)[0]

    def state(self) -> minimize.State:
        """Return the state, from many devices gathered on the host."""
        return self._layout.gather(self._state) if self._layout else self._state

    def kept(self) -> minimize.State:
        """Return the state as it is."""
        return self._state

    def blank(self, rows: int) -> Any:
        """Return what has the shapes and shardings of a state to go on from.

        Args:
          rows: of its picture; with those that filled it up on as many devices as there were then.
        """
        own = self._state.variable.shape
        if rows == own[-3]:
            return self._state

        def shape_of(x: Any) -> jax.ShapeDtypeStruct:
            image = x.shape[-len(own) :] == own
            shape = (*x.shape[:-3], rows, *x.shape[-2:]) if image else x.shape
            everywhere = self._layout.everywhere if self._layout else x.sharding
            return jax.ShapeDtypeStruct(shape, x.dtype, sharding=everywhere)

        return jax.tree.map(shape_of, self._state)

    def restore(self, state: minimize.State) -> None:
        """Go on from such a state."""
        filled, layout = state.variable.shape, self._layout
        if filled != self._state.variable.shape:

            def crop(x: Any) -> np.ndarray:
                image = x.shape[-len(filled) :] == filled
                return np.asarray(x)[..., : self._height, :, :] if image else np.asarray(x)

            whole = jax.tree.map(crop, state)
            state = layout.place_state(whole) if layout else jax.tree.map(jnp.asarray, whole)
        self._state = state

    @property
    def shared(self) -> bool:
        """Whether all processes hold parts of the state, or there is only one process."""
        return is_shared(self._layout)


def begin_scale(
    content: _Picture,
    styles: Sequence[_Style],
    *,
    network: VGG,
    config: Config,
    picture: _Picture,
    before: minimize.State | None = None,
    devices: Sequence[Any] | None = None,
) -> Scale:
    """Prepare a scale as the settings and its size ask for; the arguments are those of `Whole`.

    Raises:
      InputError: for what cannot be computed in tiles.
    """
    if needs_tiles(content.shape, config):
        return Tiled(
            content, styles, network=network, config=config, picture=picture, before=before
        )
    return Whole(
        content,
        styles,
        network=network,
        config=config,
        picture=picture,
        before=before,
        devices=devices,
    )


def begin(
    content: _Picture,
    styles: Sequence[_Style],
    *,
    network: VGG,
    config: Config,
    picture: _Picture | None = None,
    layout: Layout | None = None,
) -> tuple[minimize.State, Problem, Program]:
    """Prepare one scale with resolved settings: what `advance` takes, and its state before a step.

    Args:
      content: at the scale's size.
      styles: as they are looked at beside it; see `planning.style_shape`.
      network: best from `freeze`, with the taps of `split_config`.
      config: the settings.
      picture: where to start; the content image if not given.
      layout: of the content's shape, to compute on many devices.
    """
    numbers, program = split_config(config)
    picture = content if picture is None else picture
    if layout:
        network, content, picture = (
            layout.replicate(network),
            layout.place(content),
            layout.place(picture),
        )
    with jax.default_matmul_precision(config.matmul_precision):
        targets = scale_step.compute_targets(
            network, content, styles, numbers, program, layout=layout
        )
    state = scale_step.start(picture, numbers, program, layout=layout)
    # Shares of styles are in the targets now; the steps are not compiled anew for a number of them.
    return state, Problem(network, targets, numbers._replace(style_blend=())), program
