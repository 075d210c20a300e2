"""One picture's rows, or a batch's pictures, over many devices.

The program stays the one of a single device: arrays are laid out over a mesh, and XLA's partitioner
adds what the devices have to tell each other: border rows for convolutions, sums for statistics.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from nst_jax.devices.backend import default_device
from nst_jax.errors import InputError
from nst_jax.network.architecture import STRIDE

_Tree = TypeVar("_Tree")
# The fewest rows of a picture that a device should have: four at the deepest layers. With less, the
# border rows that are exchanged are more than those computed.
_LEAST_ROWS = 4 * STRIDE


@dataclass(frozen=True)
class Layout:
    """How arrays of one picture, or of a batch of pictures, lie on a mesh; hashable.

    Rows are filled up so that each device has the same number of them, a multiple of 16 (then no
    pooling window and no map of any layer lies across two devices). The program crops what was
    filled up before it looks at the picture, so that it changes nothing.

    Attributes:
      mesh: the devices, along one axis.
      shape: of the picture or the batch, (height, width, 3) or (n, height, width, 3).
    """

    mesh: Mesh
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        """How many rows the arrays of the picture have."""
        height, size = self.shape[-3], self.mesh.size
        return height if self._axis != -3 else rows_of_a_device(height, size) * size

    @property
    def _axis(self) -> int:
        return -3 if len(self.shape) == 3 else -4

    def _sharding(self, ndim: int) -> NamedSharding:
        axes = [None] * ndim
        axes[self._axis] = self.mesh.axis_names[0]
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def sharding(self, x: Any, *, rows: bool = False) -> NamedSharding:
        """Return how an array lies: one of the picture's shape by rows, any other everywhere.

        Args:
          x: it, or its shape and type.
          rows: it is a map, which lies by rows too.
        """
        return self._sharding(x.ndim) if rows or self._is_image(x) else self.everywhere

    def _is_image(self, x: Any) -> bool:
        shape = (*self.shape[:-3], self.rows, *self.shape[-2:])
        return bool(x.shape[-len(shape) :] == shape)

    @property
    def shared(self) -> bool:
        """Whether every process has a part."""
        return bool(_count_processes(self.mesh.devices.flat) == jax.process_count())

    def place(self, image: Float[Array | np.ndarray, "*batch height width 3"]) -> Array:
        """Lay an image or anything of its shape on the devices, filled up below by its last row."""
        whole = np.asarray(image)
        edges = [(0, 0)] * whole.ndim
        edges[-3] = (0, self.rows - whole.shape[-3])
        filled = np.pad(whole, edges, mode="edge")
        sharding = self._sharding(filled.ndim)
        return jax.make_array_from_callback(filled.shape, sharding, filled.__getitem__)

    @property
    def everywhere(self) -> NamedSharding:
        """Every device has all."""
        return NamedSharding(self.mesh, PartitionSpec())

    def replicate(self, tree: _Tree) -> _Tree:
        """Give every device all of some arrays."""
        sharding = self.everywhere

        def copy(x: Any) -> Array:
            whole = np.asarray(x)
            return jax.make_array_from_callback(whole.shape, sharding, whole.__getitem__)

        copied: _Tree = jax.tree.map(copy, tree)
        return copied

    def beside(self, shape: tuple[int, ...]) -> "Layout | None":
        """Lay out another picture or batch on the same devices, if it is large enough for them."""
        size = self.mesh.size
        fits = shape[0] >= size * _LEAST_ROWS if len(shape) == 3 else shape[0] == self.shape[0]
        return Layout(self.mesh, shape) if fits and len(shape) == len(self.shape) else None

    def place_state(self, state: _Tree) -> _Tree:
        """Invert `gather`: lay out all arrays of the picture's shape, replicate the others."""

        def lay(x: Any) -> Array:
            image = x.shape[-len(self.shape) :] == self.shape
            return self.place(x) if image else self.replicate(x)

        placed: _Tree = jax.tree.map(lay, state)
        return placed

    def gather(self, tree: _Tree) -> _Tree:
        """Bring arrays to the host, the picture's without the rows that were filled up."""
        images = jax.tree.map(self._is_image, tree)
        whole = _replicated(tree, self.mesh)
        gathered: _Tree = jax.tree.map(
            lambda x, image: np.asarray(x)[..., : self.shape[-3], :, :] if image else np.asarray(x),
            whole,
            images,
        )
        return gathered

    def crop(self, image: Float[Array, "*batch rows width c"]) -> Float[Array, "*batch h width c"]:
        """In a compiled program: take away the rows that were filled up."""
        return image[..., : self.shape[-3], :, :]

    def constrain(self, tree: _Tree) -> _Tree:
        """In a compiled program: keep arrays of the picture's shape laid out."""

        def keep(x: Any) -> Any:
            if not self._is_image(x):
                return x
            return jax.lax.with_sharding_constraint(x, self._sharding(x.ndim))

        kept: _Tree = jax.tree.map(keep, tree)
        return kept

    def spread(self, feature_map: Float[Array, "*batch h w c"]) -> Float[Array, "*batch p w c"]:
        """In a compiled program: fill up and lay out a map of any layer, to be kept."""
        if self._axis == -3:
            rows = self.rows
            while rows // 2 >= feature_map.shape[-3]:
                rows //= 2
            edges = [(0, 0)] * feature_map.ndim
            edges[-3] = (0, rows - feature_map.shape[-3])
            feature_map = jnp.pad(feature_map, edges)
        spread: Array = jax.lax.with_sharding_constraint(
            feature_map, self._sharding(feature_map.ndim)
        )
        return spread


@functools.partial(jax.jit, static_argnames="mesh")
def _replicated(tree: PyTree[Array], mesh: Mesh) -> PyTree[Array]:
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, everywhere), tree)


def rows_of_a_device(height: int, devices: int) -> int:
    """Return how many of a picture's rows each device has, with those that fill it up."""
    return -(-height // (STRIDE * devices)) * STRIDE


def spans_processes(devices: Iterable[Any]) -> bool:
    """Say whether devices belong to several processes, which must then do the same together."""
    return _count_processes(devices) > 1


def _count_processes(devices: Iterable[Any]) -> int:
    return len({device.process_index for device in devices})


def find_devices(
    devices: int | str | Sequence[Any] | None, *, own: bool = False
) -> tuple[Any, ...]:
    """Return the devices that a run takes.

    Args:
      devices: how many of JAX's, "all" of them, or a sequence of them; None: the default one.
      own: of several processes' devices take only this one's.

    Raises:
      InputError: if there are not so many, or none.
    """
    if devices is None:
        return (default_device(),)
    found = jax.local_devices() if own else jax.devices()
    if devices == "all":
        return tuple(found)
    if isinstance(devices, int):
        if not 1 <= devices <= len(found):
            raise InputError(
                f"devices is {devices}, but JAX sees {len(found)}; allowed are 1 to {len(found)}, "
                "or all"
            )
        return tuple(found[:devices])
    if isinstance(devices, str) or not devices:
        raise InputError(f"devices is {devices!r}; allowed are a number, all, or a list of devices")
    return tuple(devices)


def lay_out(shape: tuple[int, ...], devices: Sequence[Any]) -> Layout | None:
    """Decide how a picture or a batch of pictures lies on devices; None: on the default one.

    A picture has its rows on as many of the devices as can have 64 each; a batch its pictures on as
    many as divide their number, and one device if that is not worth it. Where the devices belong to
    several processes it is all or none: else each process does the same work for itself.

    Args:
      shape: (height, width, 3) or (n, height, width, 3).
      devices: from `find_devices`.
    """
    count = len(devices)
    if len(shape) == 3:
        count = max(1, min(count, shape[0] // _LEAST_ROWS))
    else:
        count = next(n for n in range(count, 0, -1) if shape[0] % n == 0)
    if spans_processes(devices) and count < len(devices):
        return None
    if count < 2 and devices[0] == default_device():
        return None
    name = "rows" if len(shape) == 3 else "pictures"
    mesh = Mesh(np.asarray(devices[:count]), (name,), axis_types=(AxisType.Auto,))
    return Layout(mesh, shape)


def is_shared(layout: Layout | None) -> bool:
    """Return whether every process has a part of what lies so, or there is only one process."""
    return layout.shared if layout else jax.process_count() == 1
