"""A scale whose picture is computed at once, on one device or spread over many."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nst_jax.devices.backend import block
from nst_jax.devices.sharding import find_devices, is_shared, lay_out
from nst_jax.losses.objective import Losses
from nst_jax.optimizers.minimize import State
from nst_jax.scale.interface import UNCHANGED, Numbers, ScaleInputs
from nst_jax.scale.step import advance, prepare_step
from nst_jax.scale.warm_start import resize_state


class WholeScale:
    """A scale whose picture is computed at once; see `Scale`."""

    def __init__(self, inputs: ScaleInputs):
        """Prepare the scale; nothing is computed but the targets."""
        content, found = inputs.content, find_devices(inputs.devices)
        self._precision = inputs.config.matmul_precision
        self._height, self._block = content.shape[-3], block(found[0].platform)
        self._layout = layout = lay_out(content.shape, found)
        state, self._inputs = prepare_step(
            content,
            inputs.styles,
            network=inputs.network,
            config=inputs.config,
            picture=inputs.picture,
            layout=layout,
            masks=inputs.masks,
            style_masks=inputs.style_masks,
            anchor=inputs.anchor,
        )
        if inputs.before:
            fresh, wrap = layout.gather(state) if layout else state, inputs.config.wrap
            carried = resize_state(inputs.before, fresh, wrap=wrap)
            state = layout.place_state(carried) if layout else carried
        self._state = state

    def advance(
        self, steps: int, *, numbers: Numbers = UNCHANGED
    ) -> tuple[Float[Array | np.ndarray, "..."], Losses]:
        """Make steps in one call to the device; see `Scale`."""
        settings = dataclasses.replace(self._inputs.settings, **numbers)
        inputs = self._inputs._replace(settings=settings)
        with jax.default_matmul_precision(self._precision):
            self._state, picture, losses = advance(
                self._state, steps, inputs, layout=self._layout, block=self._block
            )
        if self._layout:
            picture, losses = self._layout.gather((picture, losses))
        return picture, losses

    def picture(self) -> Float[Array | np.ndarray, "..."]:
        """Return the picture that the steps so far have made."""
        return self.advance(0)[0]

    def state(self) -> State:
        """Return the state, from many devices gathered on the host."""
        return self._layout.gather(self._state) if self._layout else self._state

    def state_to_save(self) -> State:
        """Return the state as it is."""
        return self._state

    def abstract_state(self, rows: int) -> Any:
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

    def load_state(self, state: State) -> None:
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
