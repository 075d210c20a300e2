"""VGG-19 as a feature network: an image in, named feature maps ("taps") out.

Simonyan and Zisserman, arXiv 1409.1556, configuration E, convolutions only. Gatys et al.,
arXiv 1508.06576, replace its max pooling by average pooling; that is the default here.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from nst_jax.architecture import CONVS, TAPS, check_size, check_taps, convs_to, parameter_shapes
from nst_jax.conv import Convolution, conv3x3, pays_for, turn
from nst_jax.errors import InputError
from nst_jax.pooling import Pooling, pool
from nst_jax.winograd import transform_kernel

Padding = Literal["zeros", "replicate"]
Remat = Literal["none", "blocks"]

# ImageNet's statistics over sRGB in [0, 1]: torchvision's networks see (image - mean) / std.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalize(image: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Take sRGB in [0, 1] to the network's own input space, (image - MEAN) / STD."""
    return (image - _colors(MEAN, image)) / _colors(STD, image)


def denormalize(variable: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """Invert `normalize`; nothing is clipped."""
    return variable * _colors(STD, variable) + _colors(MEAN, variable)


def _colors(values: tuple[float, ...], image: Array) -> Array:
    return jnp.asarray(values, image.dtype).reshape((1,) * (image.ndim - 1) + (3,))


_Operation = tuple[str, Callable[[Array], Array]]


def _apply(
    block: list[_Operation], wanted: tuple[str, ...], x: Array
) -> tuple[Array, dict[str, Array]]:
    maps = {}
    for name, operation in block:
        x = operation(x)
        if name in wanted:
            maps[name] = x
    return x, maps


class FrozenConv(nnx.Module):
    """A 3x3 convolution with bias; `kernel` is (3, 3, inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs | None, param_dtype: DTypeLike):
        draw, shape = nnx.initializers.he_normal(), (3, 3, inputs, outputs)
        self.kernel = nnx.Param(
            draw(rngs.params(), shape, param_dtype) if rngs else jnp.zeros(shape, param_dtype)
        )
        self.bias = nnx.Param(jnp.zeros((outputs,), param_dtype))
        # Forms of the kernel that `freeze` makes, so that no evaluation has to.
        self.turned: nnx.Param[Array] | None = nnx.data(None)
        self.transformed: nnx.List[nnx.Param[Array]] | None = nnx.data(None)

    def __call__(
        self,
        x: Float[Array, "n h w inputs"],
        *,
        conv: Convolution = "direct",
        rectify: bool = False,
    ) -> Float[Array, "n h w outputs"]:
        """Convolve in the type of `x`; zeros are padded. With `rectify`, a ReLU follows.

        With `conv="winograd"` that algorithm is taken where it pays.
        """
        kernel, bias = (param[...].astype(x.dtype) for param in (self.kernel, self.bias))
        turned = None if self.turned is None else self.turned[...].astype(x.dtype)
        transformed = None
        if conv == "winograd" and pays_for(*kernel.shape[2:]):
            if self.transformed is None:
                groups = transform_kernel(self.kernel[...])
            else:
                groups = tuple(group[...] for group in self.transformed)
            transformed = tuple(group.astype(x.dtype) for group in groups)
        return conv3x3(x, kernel, bias, turned=turned, transformed=transformed, rectify=rectify)


class VGG19(nnx.Module):
    """The 16 convolutions of VGG-19, a plain pytree of arrays that works under `jax.jit`.

    Pass it to compiled functions as an argument: closed over, its 80 MB become constants of the
    program.

    Random weights are drawn from `rngs`; with None all are zero, for those who set them.

    Attributes:
      convs: one `FrozenConv` for each row of `CONVS`, up to the one of the deepest tap.
      pooling: "average" (Gatys et al.), "max" (as trained) or "l2" (root of the sum of squares),
        each 2x2 with stride 2; odd sizes are rounded down.
      pool_scale: pooled maps are multiplied by it.
      padding: how conv1_1 pads the normalized image, "zeros" (as trained) or "replicate"; all other
        convolutions pad with zeros.
      dtype: what the network computes in and the type of its taps.
      conv: how the convolutions are computed; "winograd" is fast on a CPU, best after `freeze`.
      remat: what is computed twice to save memory where gradients are taken: "none", or "blocks",
        all maps between two poolings but the taps.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from nst_jax import VGG19
      >>> network = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1")  # random weights
      >>> maps = network(jnp.zeros((24, 32, 3)), taps=("relu2_1", "conv1_1"))
      >>> {name: map_.shape for name, map_ in maps.items()}
      {'conv1_1': (24, 32, 64), 'relu2_1': (12, 16, 128)}
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs | None,
        pooling: Pooling = "average",
        pool_scale: float = 1.0,
        padding: Padding = "zeros",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        conv: Convolution = "direct",
        remat: Remat = "none",
        deepest: str = TAPS[-1],
    ):
        for name, value, allowed in (
            ("pooling", pooling, Pooling),
            ("padding", padding, Padding),
            ("conv", conv, Convolution),
            ("remat", remat, Remat),
        ):
            if value not in get_args(allowed):
                raise InputError(f"{name} is {value!r}; allowed are {', '.join(get_args(allowed))}")
        self.pooling, self.pool_scale = pooling, pool_scale
        self.padding, self.dtype, self.conv = padding, jnp.dtype(dtype), conv
        self.remat = remat
        self.convs = nnx.List(
            FrozenConv(row.inputs, row.outputs, rngs=rngs, param_dtype=param_dtype)
            for row in convs_to(deepest)
        )

    def __call__(
        self,
        image: Float[Array | np.ndarray, "*batch height width 3"],
        taps: Iterable[str] = TAPS,
    ) -> OrderedDict[str, Array]:
        """Compute the named feature maps of an image.

        Args:
          image: sRGB in [0, 1] (values outside are taken as they are), NHWC, or HWC for one.
          taps: any of `TAPS`: `conv{b}_{i}` before the ReLU, `relu{b}_{i}` after it. torchvision's
            ReLUs work in place, so what its users call conv1_1 is most often relu1_1.

        Returns:
          A map `(*batch, height / 2**(b-1), width / 2**(b-1), channels)` for each tap, in `dtype`
          and in network order. Nothing deeper than the deepest tap is computed.

        Raises:
          InputError: for unknown taps or some deeper than the network, an image too small for
            them, or one that is not RGB floats.
        """
        if image.ndim < 3 or image.shape[-1] != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
            raise InputError(
                f"the image is {image.dtype}{list(image.shape)}; "
                "allowed are floats in [0, 1] of shape (height, width, 3) or (n, height, width, 3)"
            )
        return self.from_normalized(normalize(jnp.asarray(image)), taps)

    def from_normalized(
        self, variable: Float[Array, "*batch height width 3"], taps: Iterable[str] = TAPS
    ) -> OrderedDict[str, Array]:
        """Compute the same of an image that is normalized already.

        For those who optimize a normalized image: to take it to sRGB and back would add rounding of
        a few units in the last place to every evaluation.

        Raises:
          InputError: for taps or an image that `__call__` would refuse.
        """
        wanted = check_taps(taps)
        if len(convs_to(wanted[-1])) > len(self.convs):
            raise InputError(
                f"the network ends at {CONVS[len(self.convs) - 1].relu}, which is before "
                f"{wanted[-1]}; build it with deepest={wanted[-1]!r}"
            )
        check_size(variable.shape[-3], variable.shape[-2], wanted)
        found: OrderedDict[str, Array] = OrderedDict()
        batch = variable.shape[:-3]
        x = variable.reshape(-1, *variable.shape[-3:]).astype(self.dtype)
        for block in self._blocks(wanted):
            apply = functools.partial(_apply, block, wanted)
            x, maps = (jax.checkpoint(apply) if self.remat == "blocks" else apply)(x)
            found.update((name, y.reshape(*batch, *y.shape[1:])) for name, y in maps.items())
        return found

    def _blocks(self, wanted: tuple[str, ...]) -> Iterator[list[_Operation]]:
        """Yield the operations up to the last tap wanted; a pooling ends a block."""
        block: list[_Operation] = []
        for name, operation in self.operations(wanted):
            block.append((name, operation))
            if name == wanted[-1] or name.startswith("pool"):
                yield block
                block = []
            if name == wanted[-1]:
                return

    def operations(self, taps: Collection[str] = TAPS) -> Iterator[_Operation]:
        """Yield what the network does, in order: each tap's name, or pool1 … pool4, and a function.

        The first function takes the normalized image (n, height, width, 3), each later one the
        result of the one before. A convolution whose own map is not among `taps` comes together
        with its ReLU, under the name of the latter.
        """
        for row, layer in zip(CONVS, self.convs, strict=False):
            if row.index == 1 and row.block > 1:
                yield f"pool{row.block - 1}", self._pool
            convolve: Callable[..., Array] = functools.partial(layer, conv=self.conv)
            if row is CONVS[0]:
                convolve = functools.partial(self._first, convolve)
            if row.name in taps:
                yield row.name, convolve
                yield row.relu, jax.nn.relu
            else:
                yield row.relu, functools.partial(convolve, rectify=True)

    def _first(
        self, convolve: Callable[..., Array], x: Float[Array, "n h w 3"], *, rectify: bool = False
    ) -> Float[Array, "n h w outputs"]:
        if self.padding == "zeros":
            return convolve(x, rectify=rectify)
        # It then sees one more ring, which is cut off again.
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        return convolve(padded, rectify=rectify)[:, 1:-1, 1:-1]

    def _pool(self, x: Float[Array, "n h w c"]) -> Float[Array, "n p q c"]:
        return pool(x, self.pooling) * jnp.asarray(self.pool_scale, x.dtype)


def build_vgg19(
    params: Mapping[str, np.ndarray | Array],
    *,
    pooling: Pooling = "average",
    pool_scale: float = 1.0,
    padding: Padding = "zeros",
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    conv: Convolution = "direct",
    remat: Remat = "none",
    deepest: str = TAPS[-1],
) -> VGG19:
    """Build a network from named arrays, without initializing it at random first.

    Args:
      params: an array for each name of `parameter_shapes`, in any float type; those behind
        `deepest` may be absent.
      pooling: see `VGG19`.
      pool_scale: see `VGG19`.
      padding: see `VGG19`.
      dtype: see `VGG19`.
      param_dtype: the type that the parameters are converted to.
      conv: see `VGG19`.
      remat: see `VGG19`.
      deepest: the last tap that the network has.

    Raises:
      InputError: if a parameter is missing, unknown or of the wrong shape; it lists all of them.
    """
    shapes = parameter_shapes()
    faults = [f"{name} is missing" for name in parameter_shapes(deepest) if name not in params]
    faults += [f"{name} is not a parameter of VGG-19" for name in params if name not in shapes]
    faults += [
        f"{name} has shape {params[name].shape}, not {shape}"
        for name, shape in shapes.items()
        if name in params and params[name].shape != shape
    ]
    if faults:
        raise InputError("these are not VGG-19's parameters:\n  " + "\n  ".join(faults))
    network = nnx.eval_shape(
        lambda: VGG19(
            rngs=None,
            pooling=pooling,
            pool_scale=pool_scale,
            padding=padding,
            dtype=dtype,
            param_dtype=param_dtype,
            conv=conv,
            remat=remat,
            deepest=deepest,
        )
    )
    for row, layer in zip(convs_to(deepest), network.convs, strict=True):
        for leaf in ("kernel", "bias"):
            array = jnp.asarray(params[f"{row.name}.{leaf}"], dtype=param_dtype)
            setattr(layer, leaf, nnx.Param(array))
    return network


def parameters(network: VGG19) -> dict[str, Array]:
    """Return a network's parameters as a plain dict, what `build_vgg19` takes.

    For those who hold parameters in their own tree, as Linen, Haiku or Equinox do: in a compiled
    function `build_vgg19(params)(image)` is a pure function of both.
    """
    return {
        f"{row.name}.{leaf}": getattr(layer, leaf)[...]
        for row, layer in zip(CONVS, network.convs, strict=False)
        for leaf in ("kernel", "bias")
    }


def recast_vgg19(
    network: VGG19,
    *,
    dtype: DTypeLike,
    conv: Convolution,
    pooling: Pooling,
    pool_scale: float,
    padding: Padding,
    remat: Remat = "none",
) -> VGG19:
    """Return a network of the same parameters that computes in another way; see `VGG19`."""
    recast = nnx.merge(*nnx.split(network))
    recast.dtype, recast.conv = jnp.dtype(dtype), conv
    recast.pooling, recast.pool_scale, recast.padding = pooling, pool_scale, padding
    recast.remat = remat
    return recast


@functools.partial(jax.jit, static_argnames="taps")
def freeze(network: VGG19, *, taps: tuple[str, ...] = TAPS) -> VGG19:
    """Return the network with its parameters in the form that it computes with, up to the taps.

    They are in its dtype, and each kernel has beside it what the gradient or Winograd's algorithm
    make of it; the latter's form has four times the elements. Without this, every evaluation makes
    them anew.
    """
    needed = {row.name for row in convs_to(check_taps(taps)[-1])}
    for row, layer in zip(CONVS, network.convs, strict=False):
        if row.name not in needed:
            continue
        kernel = layer.kernel[...]
        if network.conv == "winograd" and pays_for(row.inputs, row.outputs):
            groups = transform_kernel(kernel)
            layer.transformed = nnx.List(nnx.Param(x.astype(network.dtype)) for x in groups)
        else:
            layer.turned = nnx.Param(turn(kernel).astype(network.dtype))
        layer.kernel = nnx.Param(kernel.astype(network.dtype))
        layer.bias = nnx.Param(layer.bias[...].astype(network.dtype))
    return network
