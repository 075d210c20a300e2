"""A scale whose picture is computed tile by tile, exactly, with the picture in host memory.

All that the loss takes of the picture are sums over positions: of products of channels (Gram
matrices), of squared differences from the content's maps, of differences of neighbors. So a step is
two passes over windows (`scale.windows`). The first adds up the statistics of the style layers.
Their loss and its derivative by the statistics are then known, and with these as constants the loss
is itself a sum over positions, whose gradient the second pass adds up window by window. The result
is the gradient of the whole picture, but for the order in which numbers are added.

A step takes the first pass and the margins on top of an ordinary one. Memory is that of one window;
the picture, the optimizer's averages and the content's maps lie in host memory.
"""

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from nst_jax.config import Config, Space
from nst_jax.errors import InputError
from nst_jax.geometry import Shape, shape_of
from nst_jax.losses.objective import Description, Losses, assemble_targets
from nst_jax.losses.statistics import StyleStatistics
from nst_jax.optimizers.minimize import State
from nst_jax.scale.hyperparameters import (
    Hyperparameters,
    hyperparameters,
    make_minimizer,
    to_srgb,
)
from nst_jax.scale.interface import UNCHANGED, Numbers, ScaleInputs
from nst_jax.scale.step import start, variable_loss, without_shares
from nst_jax.scale.tiled_loss import (
    KEPT_BYTES,
    Maps,
    Statistics,
    TiledTargets,
    content_bytes,
    describe_content,
    differentiate,
    losses_of,
    shifts,
    window_gradient,
    window_statistics,
)
from nst_jax.scale.warm_start import resize_state
from nst_jax.scale.windows import Cover, Window, cover, round_up

_STRIP = 2**22  # px that the optimizer updates at once


class TiledScale:
    """A scale in tiles; see `nst_jax.scale.interface.Scale`."""

    def __init__(self, inputs: ScaleInputs):
        """Take the targets, window by window.

        Raises:
          InputError: for what cannot be computed in tiles; see `check_tiled`.
        """
        config = inputs.config
        check_tiled(inputs.content.shape, config)
        self._network, self._precision = inputs.network, config.matmul_precision
        self._cover = inputs.tiles or _windows(shape_of(inputs.content), config)
        self._content = np.asarray(inputs.content)
        self._masks, self._anchor = jax.tree.map(np.asarray, (inputs.masks, inputs.anchor))
        # The content's maps of each window, if they are kept.
        self._maps: list[Maps] | None = None
        self._settings = hyperparameters(config)
        with jax.default_matmul_precision(self._precision):
            style = self._style_targets(inputs, config)
            self._targets = TiledTargets(style, self._content_squares())
        self._settings = self._asked = without_shares(self._settings)
        self._shift = shifts(self._targets.style, self._settings.style_loss)
        self._state = self._begin(np.asarray(inputs.picture), inputs.before)

    def _style_targets(
        self, inputs: ScaleInputs, config: Config
    ) -> OrderedDict[str, PyTree[Array]]:
        settings, looks = self._settings, []
        masks: Sequence[Any] = inputs.style_masks or [None] * len(inputs.styles)
        for image, mask in zip(inputs.styles, masks, strict=True):
            style, covered = np.asarray(image), _windows(shape_of(image), config)
            own = None if mask is None else np.asarray(mask)
            looks.append(self._sum_statistics(style, covered, shift={}, space="srgb", masks=own))
        like = Description(OrderedDict(), self._positions())
        targets: OrderedDict[str, PyTree[Array]] = assemble_targets(
            like,
            looks,
            style_loss=settings.style_loss,
            style_blend=settings.style_blend,
            style_layer_blend=settings.style_layer_blend,
        ).style
        return targets

    def _positions(self) -> OrderedDict[str, StyleStatistics]:
        """Return what targets need of the content's statistics: how many positions there are."""
        settings, blank = self._settings, jnp.zeros(())
        counts = {
            name: settings.architecture.positions(name, *self._cover.picture)
            for name in settings.style_layers
        }
        return OrderedDict(
            (name, StyleStatistics(blank, jnp.zeros(1), jnp.asarray(float(count))))
            for name, count in counts.items()
        )

    def _content_squares(self) -> tuple[Float[Array, ""], ...]:
        if content_bytes(self._settings) <= KEPT_BYTES:
            self._maps = []
        total: Any = None
        for window in self._cover.windows:
            maps, share = describe_content(
                self._network,
                self._cover.cut(self._content, window),
                self._cover.part(window),
                self._settings,
            )
            if self._maps is not None:
                self._maps.append(jax.tree.map(np.asarray, maps))
            total = share if total is None else jax.tree.map(jnp.add, total, share)
        squares: tuple[Array, ...] = total
        return squares

    def _sum_statistics(
        self,
        image: np.ndarray,
        covered: Cover,
        *,
        shift: Mapping[str, Array],
        space: Space,
        masks: np.ndarray | None,
    ) -> Statistics:
        """Add up the statistics of all windows of an image."""
        settings, total = self._settings, None
        for window in covered.windows if settings.style_layers else ():
            cut, part = covered.cut(image, window), covered.part(window)
            own = None if masks is None else covered.cut(masks, window)
            share = window_statistics(self._network, cut, part, shift, settings, space, masks=own)
            total = share if total is None else jax.tree.map(jnp.add, total, share)
        return OrderedDict() if total is None else total

    def advance(self, steps: int, *, numbers: Numbers = UNCHANGED) -> tuple[np.ndarray, Losses]:
        """Make steps, one after the other; see `Scale`."""
        self._settings = dataclasses.replace(self._asked, **numbers)
        records = []
        with jax.default_matmul_precision(self._precision):
            for _ in range(steps):
                losses, gradient = self.evaluate()
                self._update(losses, gradient)
                records.append(losses)
            picture = self.picture()
        stacked: Losses = jax.tree.map(lambda *x: np.stack([np.asarray(y) for y in x]), *records)
        return picture, stacked

    def state(self) -> State:
        """Return the state; its arrays are the scale's own."""
        return self._state

    def state_to_save(self) -> State:
        """Return the state."""
        return self._state

    def abstract_state(self, rows: int) -> Any:
        """Return the state, whose arrays are NumPy's."""
        return self._state

    def load_state(self, state: State) -> None:
        """Go on from a state that was kept; NumPy arrays of it become the scale's own."""
        self._state = jax.tree.map(lambda x: np.require(x, requirements="W"), state)

    @property
    def shared(self) -> bool:
        """Whether there is only one process."""
        return bool(jax.process_count() == 1)

    def evaluate(self) -> tuple[Losses, np.ndarray]:
        """Return the losses and the gradient at the variable."""
        variable, settings, picture = self._state.variable, self._settings, self._cover.picture
        statistics = self._sum_statistics(
            variable, self._cover, shift=self._shift, space=settings.space, masks=self._masks
        )
        constants = differentiate(statistics, self._targets, settings, picture)
        gradient, shares, waiting = np.zeros_like(variable), [], None
        for index, window in enumerate(self._cover.windows):
            cut = functools.partial(self._cover.cut, window=window)
            own, share = window_gradient(
                self._network,
                cut(variable),
                self._content_of(index, window),
                self._cover.part(window),
                self._shift,
                constants,
                masks=jax.tree.map(cut, self._masks),
                anchor=jax.tree.map(cut, self._anchor),
            )
            shares.append(share)
            # The device computes one window while the host adds the one before.
            self._add(gradient, waiting)
            waiting = window, own
        self._add(gradient, waiting)
        sums = functools.reduce(functools.partial(jax.tree.map, jnp.add), shares)
        return losses_of(statistics, sums, self._targets, settings, picture), gradient

    def _content_of(self, index: int, window: Window) -> Any:
        if self._maps is not None:
            return self._maps[index]
        return self._cover.cut(self._content, window)

    def _add(self, gradient: np.ndarray, waiting: tuple[Window, Array] | None) -> None:
        if waiting:
            window, own = waiting
            self._cover.cut(gradient, window)[...] += np.asarray(own)

    def _update(self, losses: Losses, gradient: np.ndarray) -> None:
        image, before = self._content.shape, self._state  # its counts are those of every strip
        for strip in self._strips():
            mine = functools.partial(_cut, strip=strip, image=image)
            own = jax.tree.map(mine, before)
            part = _apply(own, mine(gradient), losses.total, self._settings)
            self._state = _put(before, part, strip, image)

    def _strips(self) -> Iterator[slice]:
        """Yield rows that the optimizer may update apart from the others."""
        height, width, _ = self._content.shape
        # All that Adam does is done for each value by itself; L-BFGS takes products of pictures.
        rows = max(1, _STRIP // width) if self._settings.optimizer == "adam" else height
        for first in range(0, height, rows):
            yield slice(first, first + rows)

    def _begin(self, picture: np.ndarray, before: State | None) -> State:
        begin = functools.partial(start, settings=self._settings)
        state = jax.tree.map(
            lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(begin, self._content)
        )
        for strip in self._strips():
            part = begin(_cut(picture, strip=strip, image=picture.shape))
            state = _put(state, part, strip, picture.shape)
        # What comes back is JAX's own memory, which is not to be written to.
        begun: State = jax.tree.map(np.array, resize_state(before, state)) if before else state
        return begun

    def picture(self) -> np.ndarray:
        """Return the picture that the steps so far have made."""
        picture = np.empty_like(self._content)
        for strip in self._strips():
            mine = functools.partial(_cut, strip=strip, image=picture.shape)
            own = jax.tree.map(mine, self._state._replace(optimizer=()))
            picture[strip] = _read(own, self._settings)
        return picture


def check_tiled(shape: tuple[int, ...], config: Config) -> None:
    """Raise InputError for what cannot be computed in tiles."""
    if len(shape) == 4:
        raise InputError(
            f"the content image is a batch of {shape[0]}, but tiles are for one picture at a time; "
            "leave tile out"
        )
    if config.optimizer == "lbfgs":
        raise InputError(
            "the optimizer is lbfgs, whose line search cannot be computed in tiles; allowed are "
            "adam and lbfgs-torch, or leave tile out"
        )


def margin(config: Config) -> int:
    """How far a window must reach beyond its part for exact maps, in px; a multiple of 16.

    A position of a map sees one more on each side with every convolution before it; nothing else
    reaches beyond the px that are its own.
    """
    table = config.architecture
    return round_up(sum(table.stride(conv.name) for conv in table.convs_to(config.taps[-1])))


def tiles(shape: Shape, config: Config) -> Cover | None:
    """Return the windows that a picture of this shape is computed in; None: it is one window."""
    covered = _windows(shape, config)
    return covered if config.tile and len(covered.windows) > 1 else None


def _windows(shape: Shape, config: Config) -> Cover:
    return cover(*shape, tile=config.tile or max(shape), margin=margin(config))


def _cut(x: Any, *, strip: slice, image: tuple[int, ...]) -> Any:
    """Take the rows of an array of pictures; leave any other as it is."""
    return x[..., strip, :, :] if x.shape[-3:] == image else x


def _put(tree: State, part: State, strip: slice, image: Any) -> State:
    """Write rows into the arrays of pictures; take any other array from the part."""
    jax.block_until_ready(part)  # it may be computed from the memory that is written to

    def put(x: Any, new: Array) -> Any:
        if x.shape[-3:] != image:
            return np.array(new)
        x[..., strip, :, :] = np.asarray(new)
        return x

    written: State = jax.tree.map(put, tree, part)
    return written


@jax.jit
def _apply(
    state: State,
    gradient: Float[Array, "..."],
    value: Float[Array, ""],
    settings: Hyperparameters,
) -> State:
    return make_minimizer(settings, variable_loss).update(state, value, gradient)


@jax.jit
def _read(state: State, settings: Hyperparameters) -> Array:
    picture = make_minimizer(settings, variable_loss).read(state)
    return to_srgb(picture, settings.space)
