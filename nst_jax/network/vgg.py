"""VGG-19 and VGG-16 as feature networks: an image in, named feature maps ("taps") out.

Simonyan and Zisserman, arXiv 1409.1556, configurations E and D, convolutions only. Gatys et al.,
arXiv 1508.06576, replace the max pooling by average pooling; that is the default here.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar, Literal, TypedDict, TypeVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from nst_jax.errors import InputError, check_choice
from nst_jax.geometry import Ends, Wrap, pad_border
from nst_jax.network.architecture import ARCHITECTURES, Architecture, NetworkName
from nst_jax.network.conv import Convolution, conv3x3, pays_for, turn
from nst_jax.network.pooling import Pooling, pool
from nst_jax.network.winograd import transform_kernel

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


_Value = TypeVar("_Value")


class FrozenParam(nnx.Variable[_Value]):
    """The type of a network's arrays in Flax NNX.

    It is no `nnx.Param`, so that a network that is part of your own model stays as it is:
    `nnx.grad` and an optimizer with `wrt=nnx.Param` pass over it.
    """


class FrozenConv(nnx.Module):
    """A 3x3 convolution with bias; `kernel` is (3, 3, inputs, outputs)."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs | None, param_dtype: DTypeLike):
        draw, shape = nnx.initializers.he_normal(), (3, 3, inputs, outputs)
        self.kernel = FrozenParam(
            draw(rngs.params(), shape, param_dtype) if rngs else jnp.zeros(shape, param_dtype)
        )
        self.bias = FrozenParam(jnp.zeros((outputs,), param_dtype))
        # Other forms of the kernel. `freeze` computes them once, else every evaluation does.
        self.turned: FrozenParam[Array] | None = nnx.data(None)
        self.transformed: nnx.List[FrozenParam[Array]] | None = nnx.data(None)

    def __call__(
        self,
        x: Float[Array, "n h w inputs"],
        *,
        conv: Convolution = "direct",
        rectify: bool = False,
    ) -> Float[Array, "n h w outputs"]:
        """Convolve in the dtype of `x`, padded with zeros. With `rectify`, a ReLU follows.

        With `conv="winograd"`, Winograd's algorithm is used where it pays.
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


class NetworkOptions(TypedDict, total=False):
    """How a network computes: the keywords of `VGG` that change no parameter."""

    pooling: Pooling
    pool_scale: float
    padding: Padding
    dtype: DTypeLike
    conv: Convolution
    remat: Remat
    wrap: Wrap
    ends: Ends


class VGG(nnx.Module):
    """The convolutions of `VGG19` or `VGG16`, a plain pytree of arrays that works under `jax.jit`.

    Pass the network to compiled functions as an argument. In a closure, the network's 59 to
    80 MB would become constants of the program.

    Random weights are drawn from `rngs`; with None all weights are zero, to be set by the caller.

    Attributes:
      architecture: the network's rows of convolutions, and its taps.
      convs: one `FrozenConv` for each row, up to the deepest tap.
      pooling: "average" (Gatys et al.), "max" (as trained) or "l2" (root of the sum of squares),
        each 2x2 with stride 2; odd sizes are rounded down.
      pool_scale: factor of the pooled maps.
      padding: how conv1_1 pads the normalized image, "zeros" (as trained) or "replicate"; all other
        convolutions pad with zeros. No padding is needed at sides that wrap.
      dtype: of the computation and of the taps.
      conv: how the convolutions are computed; "winograd" is fast on a CPU, best after `freeze`.
      remat: which maps the gradient computes again, to save memory: "none", or "blocks", all maps
        between two poolings except the taps.
      wrap: the sides of the image whose two ends meet; x: left and right, both: also top and
        bottom. It is exact where they are multiples of the deepest map's stride.
      ends: how every convolution pads the sides that wrap; meet: with the values at the other end;
        repeat: each end with its own, for the style image beside a picture that wraps. Its maps
        then have no border either, which padding with zeros would leave in its statistics.
      means: the mean activation after each ReLU, if it is known, for `match_activations`.
    """

    architecture: ClassVar[Architecture]

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
        wrap: Wrap = "none",
        ends: Ends = "meet",
        deepest: str | None = None,
    ):
        for name, value, allowed in (
            ("pooling", pooling, Pooling),
            ("padding", padding, Padding),
            ("conv", conv, Convolution),
            ("remat", remat, Remat),
            ("wrap", wrap, Wrap),
            ("ends", ends, Ends),
        ):
            check_choice(name, value, allowed)
        self.pooling, self.pool_scale = pooling, pool_scale
        self.padding, self.dtype, self.conv = padding, jnp.dtype(dtype), conv
        self.remat, self.wrap, self.ends = remat, wrap, ends
        self.means: FrozenParam[Array] | None = nnx.data(None)
        self.convs = nnx.List(
            FrozenConv(row.inputs, row.outputs, rngs=rngs, param_dtype=param_dtype)
            for row in self.architecture.convs_to(deepest)
        )

    def __call__(
        self,
        image: Float[Array | np.ndarray, "*batch height width 3"],
        taps: Iterable[str] | None = None,
    ) -> OrderedDict[str, Array]:
        """Compute the named feature maps of an image.

        Args:
          image: sRGB in [0, 1] (values outside are not clipped), NHWC, or HWC for one.
          taps: `conv{b}_{i}` before the ReLU, `relu{b}_{i}` after it; by default all. torchvision's
            ReLUs work in place, so what its users call conv1_1 is most often relu1_1.

        Returns:
          A map `(*batch, height / 2**(b-1), width / 2**(b-1), channels)` for each tap, in `dtype`
          and in network order. Nothing deeper than the deepest tap is computed.

        Raises:
          InputError: if a tap is unknown or deeper than the network, or the image is too small for
            the taps or not RGB floats.
        """
        if image.ndim < 3 or image.shape[-1] != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
            raise InputError(
                f"the image is {image.dtype}{list(image.shape)}; "
                "allowed are floats in [0, 1] of shape (height, width, 3) or (n, height, width, 3)"
            )
        return self.from_normalized(normalize(jnp.asarray(image)), taps)

    def from_normalized(
        self, variable: Float[Array, "*batch height width 3"], taps: Iterable[str] | None = None
    ) -> OrderedDict[str, Array]:
        """Compute the named feature maps of a normalized image.

        This is for optimizing a normalized image: a conversion to sRGB and back would add rounding
        of a few units in the last place to every evaluation.

        Raises:
          InputError: if `__call__` would refuse the taps or an image of this size.
        """
        wanted = self.check_taps(self.architecture.taps if taps is None else taps)
        self.architecture.check_size(variable.shape[-3], variable.shape[-2], wanted)
        found: OrderedDict[str, Array] = OrderedDict()
        batch = variable.shape[:-3]
        x = variable.reshape(-1, *variable.shape[-3:]).astype(self.dtype)
        for block in self._blocks(wanted):
            apply = functools.partial(_apply, block, wanted)
            x, maps = (jax.checkpoint(apply) if self.remat == "blocks" else apply)(x)
            found.update((name, y.reshape(*batch, *y.shape[1:])) for name, y in maps.items())
        return found

    def check_taps(self, taps: Iterable[str]) -> tuple[str, ...]:
        """Return `taps` without repeats in network order.

        Raises:
          InputError: if a tap is unknown or deeper than the network, or `taps` is empty.
        """
        wanted = self.architecture.check_taps(taps)
        if len(self.architecture.convs_to(wanted[-1])) > len(self.convs):
            raise InputError(
                f"the network ends at {self.architecture.convs[len(self.convs) - 1].relu}, which "
                f"is before {wanted[-1]}; build it with deepest={wanted[-1]!r}"
            )
        return wanted

    def features(self, taps: Iterable[str]) -> "Features":
        """Return the network and the taps as one function of an image, which is a pytree.

        Args:
          taps: see `__call__`.

        Raises:
          InputError: if a tap is unknown or deeper than the network, or `taps` is empty.
        """
        return Features(self, taps)

    def _blocks(self, wanted: tuple[str, ...]) -> Iterator[list[_Operation]]:
        """Yield the operations up to the last wanted tap in blocks; each pooling ends a block."""
        block: list[_Operation] = []
        for name, operation in self.operations(wanted):
            block.append((name, operation))
            if name == wanted[-1] or name.startswith("pool"):
                yield block
                block = []
            if name == wanted[-1]:
                return

    def operations(self, taps: Collection[str] | None = None) -> Iterator[_Operation]:
        """Yield the network's operations in order: a name (a tap, or pool1 … pool4) and a function.

        The first function takes the normalized image (n, height, width, 3), each later function the
        result of the one before. A convolution that is not among `taps` (by default all taps) is
        joined with its ReLU, under the ReLU's name.
        """
        for row, layer in zip(self.architecture.convs, self.convs, strict=False):
            if row.pooled:
                yield f"pool{row.block - 1}", self._pool
            convolve: Callable[..., Array] = functools.partial(layer, conv=self.conv)
            repeat = self.padding == "replicate" and row is self.architecture.convs[0]
            if repeat or self.wrap != "none":
                convolve = functools.partial(self._inside, convolve, repeat)
            if taps is None or row.name in taps:
                yield row.name, convolve
                yield row.relu, jax.nn.relu
            else:
                yield row.relu, functools.partial(convolve, rectify=True)

    def _inside(
        self,
        convolve: Callable[..., Array],
        repeat: bool,
        x: Float[Array, "n h w inputs"],
        *,
        rectify: bool = False,
    ) -> Float[Array, "n h w outputs"]:
        """Convolve a map with a border of its own; see `pad_border`.

        The convolution's zeros reach only the outer ring of the result, which is cut off. (In the
        convolution itself, a border took XLA's CPU backend more time than the ring does.)
        """
        _, height, width, _ = x.shape
        around = pad_border(x, wrap=self.wrap, ends=self.ends, repeat=repeat)
        top, left = (around.shape[1] - height) // 2, (around.shape[2] - width) // 2
        return convolve(around, rectify=rectify)[:, top : top + height, left : left + width]

    def _pool(self, x: Float[Array, "n h w c"]) -> Float[Array, "n p q c"]:
        return pool(x, self.pooling) * jnp.asarray(self.pool_scale, x.dtype)


class Features(nnx.Module):
    """A network and its taps: a function of an image, and a pytree for an argument under `jax.jit`.

    The network's arrays are its leaves, the taps are static. The losses take it as `features`.

    Attributes:
      network: computes the feature maps.
      taps: see `VGG.__call__`; kept without repeats and in network order.

    Raises:
      InputError: at construction, if a tap is unknown or deeper than the network, or there is none.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from nst_jax import VGG19
      >>> features = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1").features(["relu1_1", "relu2_1"])
      >>> brightness = jax.jit(lambda features, image: features(image)["relu1_1"].mean())
      >>> brightness(features, jnp.zeros((24, 32, 3))).shape
      ()
    """

    def __init__(self, network: VGG, taps: Iterable[str]):
        self.network, self.taps = network, network.check_taps(taps)

    def __call__(
        self, image: Float[Array | np.ndarray, "*batch height width 3"]
    ) -> OrderedDict[str, Array]:
        """Compute the feature maps of an image; see `VGG.__call__`.

        Args:
          image: sRGB in [0, 1], NHWC, or HWC for one.

        Raises:
          InputError: if the image is too small for the taps or not RGB floats.
        """
        return self.network(image, self.taps)


class VGG19(VGG):
    """VGG-19, configuration E: 16 convolutions; see `VGG`.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from nst_jax import VGG19
      >>> network = VGG19(rngs=nnx.Rngs(0), deepest="relu2_1")  # random weights
      >>> maps = network(jnp.zeros((24, 32, 3)), taps=("relu2_1", "conv1_1"))
      >>> {name: map_.shape for name, map_ in maps.items()}
      {'conv1_1': (24, 32, 64), 'relu2_1': (12, 16, 128)}
    """

    architecture = ARCHITECTURES["vgg19"]


class VGG16(VGG):
    """VGG-16, configuration D: 13 convolutions; see `VGG`."""

    architecture = ARCHITECTURES["vgg16"]


NETWORKS: Mapping[NetworkName, type[VGG]] = MappingProxyType({"vgg19": VGG19, "vgg16": VGG16})
_Network = TypeVar("_Network", bound=VGG)


def build_vgg(
    kind: type[_Network],
    params: Mapping[str, np.ndarray | Array],
    *,
    param_dtype: DTypeLike = jnp.float32,
    deepest: str | None = None,
    **options: Unpack[NetworkOptions],
) -> _Network:
    """Build a network of the class `kind` from named arrays; see `build_vgg19`.

    Raises:
      InputError: see `build_vgg19`.
    """
    table = kind.architecture
    shapes, needed = table.parameter_shapes(), table.parameter_shapes(deepest)
    faults = [f"{name} is missing" for name in needed if name not in params]
    faults += [f"{name} is not one of {table.title}" for name in params if name not in shapes]
    faults += [
        f"{name} has shape {params[name].shape}, not {shape}"
        for name, shape in shapes.items()
        if name in params and params[name].shape != shape
    ]
    if faults:
        raise InputError(f"these are not {table.title}'s parameters:\n  " + "\n  ".join(faults))
    network: _Network = nnx.eval_shape(
        lambda: kind(rngs=None, param_dtype=param_dtype, deepest=deepest, **options)
    )
    for row, layer in zip(table.convs_to(deepest), network.convs, strict=True):
        for leaf in ("kernel", "bias"):
            array = jnp.asarray(params[f"{row.name}.{leaf}"], dtype=param_dtype)
            setattr(layer, leaf, FrozenParam(array))
    return network


def build_vgg19(
    params: Mapping[str, np.ndarray | Array],
    *,
    param_dtype: DTypeLike = jnp.float32,
    deepest: str | None = None,
    **options: Unpack[NetworkOptions],
) -> VGG19:
    """Build VGG-19 from named arrays, without initializing it at random first.

    Args:
      params: an array of any float type for each parameter name, as `parameters` returns them;
        parameters behind `deepest` may be absent.
      param_dtype: the dtype that the parameters are converted to.
      deepest: the last tap that the network has.
      options: pooling, pool_scale, padding, dtype, conv, remat, wrap and ends; see `VGG`.

    Raises:
      InputError: if a parameter is missing, unknown or of the wrong shape; the message lists all.
    """
    return build_vgg(VGG19, params, param_dtype=param_dtype, deepest=deepest, **options)


def build_vgg16(
    params: Mapping[str, np.ndarray | Array],
    *,
    param_dtype: DTypeLike = jnp.float32,
    deepest: str | None = None,
    **options: Unpack[NetworkOptions],
) -> VGG16:
    """Build VGG-16 from named arrays, as `build_vgg19` does VGG-19.

    Args:
      params: see `build_vgg19`.
      param_dtype: see `build_vgg19`.
      deepest: see `build_vgg19`.
      options: see `build_vgg19`.

    Raises:
      InputError: see `build_vgg19`.
    """
    return build_vgg(VGG16, params, param_dtype=param_dtype, deepest=deepest, **options)


def parameters(network: VGG) -> dict[str, Array]:
    """Return a network's parameters as a plain dict, for `build_vgg19` or `build_vgg16`.

    This is for holding the parameters in your own pytree, as with Linen, Haiku or Equinox: in a
    compiled function `build_vgg19(params)(image)` is a pure function of both.
    """
    return {
        f"{row.name}.{leaf}": getattr(layer, leaf)[...]
        for row, layer in zip(network.architecture.convs, network.convs, strict=False)
        for leaf in ("kernel", "bias")
    }


def recast(network: _Network, **options: Unpack[NetworkOptions]) -> _Network:
    """Return a network with the same parameters and other options.

    Args:
      network: stays as it is.
      options: the options that change; see `VGG`.
    """
    changed: _Network = nnx.merge(*nnx.split(network))
    if "dtype" in options:
        options["dtype"] = jnp.dtype(options["dtype"])
    for name, value in options.items():
        setattr(changed, name, value)
    return changed


def freeze(network: _Network, *, taps: Iterable[str] | None = None) -> _Network:
    """Return the network with its parameters prepared for many evaluations.

    The parameters are cast to the network's dtype, and each kernel also gets its form for the
    gradient or for Winograd's algorithm; the latter form has four times the elements. Without
    `freeze`, every evaluation computes these forms again. The feature maps are the same.

    Args:
      network: stays as it is.
      taps: parameters behind the deepest of these stay as they are; by default all are prepared.

    Raises:
      InputError: if a tap is unknown or deeper than the network.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from nst_jax import VGG19, freeze
      >>> network = VGG19(rngs=nnx.Rngs(0), deepest="relu1_2", conv="winograd")
      >>> frozen = freeze(network)
      >>> frozen(jnp.zeros((8, 8, 3)), taps=["relu1_2"])["relu1_2"].shape
      (8, 8, 64)
    """
    count = len(network.convs)
    if taps is not None:
        count = len(network.architecture.convs_to(network.check_taps(taps)[-1]))
    frozen: _Network = _freeze(network, count)
    return frozen


@functools.partial(jax.jit, static_argnums=1)
def _freeze(network: _Network, count: int) -> _Network:
    network.means = None  # of no use in an evaluation
    for layer in network.convs[:count]:
        kernel = layer.kernel[...]
        if network.conv == "winograd" and pays_for(*kernel.shape[2:]):
            groups = transform_kernel(kernel)
            layer.transformed = nnx.List(FrozenParam(x.astype(network.dtype)) for x in groups)
        else:
            layer.turned = FrozenParam(turn(kernel).astype(network.dtype))
        layer.kernel = FrozenParam(kernel.astype(network.dtype))
        layer.bias = FrozenParam(layer.bias[...].astype(network.dtype))
    return network
