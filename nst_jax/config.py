"""The settings of a run, their defaults, their allowed values, and the named presets.

This is the only home of defaults: the command line makes its flags from these fields.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from nst_jax.errors import InputError
from nst_jax.geometry import Side
from nst_jax.losses.regularizers import TotalVariation
from nst_jax.losses.terms import ContentLoss, StyleLoss
from nst_jax.network.architecture import ARCHITECTURES, Architecture, NetworkName
from nst_jax.network.conv import Convolution
from nst_jax.network.pooling import Pooling
from nst_jax.network.vgg import Padding, Remat
from nst_jax.optimizers.averaging import Picture

Optimizer = Literal["adam", "lbfgs", "lbfgs-torch"]
Precision = Literal["float32", "tf32", "bfloat16", "float64"]
Space = Literal["srgb", "normalized"]
Start = Literal["content", "noise", "gray", "style"]
StyleFit = Literal["longest", "shortest", "stretch"]
ComputeDType = Literal["float32", "bfloat16", "float64"]
# The first compute capability with matrix units for bfloat16 and TF32.
_AMPERE = 8.0


class Layer(NamedTuple):
    """A tap of the network, and the weight of its term."""

    name: str
    weight: float = 1.0


def layers(*names: str, **weights: float) -> tuple[Layer, ...]:
    """Return layers with their weights: `layers("relu1_1", "relu2_1")`, `layers(relu1_1=256)`.

    Args:
      names: taps of the network, each with the weight 1.
      weights: taps of the network and the factors of their terms.

    Examples:
      >>> from nst_jax import Config, layers
      >>> layers("relu4_2")
      (Layer(name='relu4_2', weight=1.0),)
      >>> config = Config(style_layers=layers("relu3_1", relu1_1=64.0))
      >>> [layer.name for layer in config.style_layers]
      ['relu3_1', 'relu1_1']
    """
    return (*map(Layer, names), *(Layer(name, weight) for name, weight in weights.items()))


def _setting(default: Any, help: str, **metadata: Any) -> Any:
    """Make a field.

    In its metadata least, above and below bound its number, flag gives it a command-line flag, word
    is what that takes in place of a number, and only is another setting and those of its values for
    which this one means anything.
    """
    return field(default=default, metadata={"help": help, "flag": True, **metadata})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run. The defaults are our own recipe, the preset `default`.

    Each field has its help, its bounds and its default in its metadata; a number that the compiled
    program takes at run time costs no compilation when it is changed.

    Raises:
      InputError: at construction, if a value is out of range.
    """

    size: int = _setting(
        512,
        "length of the picture's --side in px; max: the largest that fits in memory",
        least=1,
        word="max",
    )
    side: Side = _setting("longest", "which of the picture's sides --size is about")
    min_size: int = _setting(
        128, "longest side of the first scale in px, at least; 0: one scale only", least=0
    )
    scale_factor: float = _setting(2**0.5, "from one scale's sides to the next one's", above=1)
    steps: int = _setting(120, "updates of the picture at each scale", least=1)
    first_steps: int = _setting(400, "updates at the first of several scales", least=1)
    optimizer: Optimizer = _setting(
        "adam",
        "lbfgs is optax's, with a line search; lbfgs-torch takes the steps of torch.optim.LBFGS",
    )
    learning_rate: float = _setting(
        0.02, "Adam's step size in units of the space", above=0, only=("optimizer", ("adam",))
    )
    memory_size: int = _setting(
        100,
        "pairs that L-BFGS remembers, two pictures each",
        least=1,
        only=("optimizer", ("lbfgs", "lbfgs-torch")),
    )
    beta1: float = _setting(0.9, "Adam's decay of the mean gradient", least=0, below=1, flag=False)
    beta2: float = _setting(0.99, "Adam's decay of its square", least=0, below=1, flag=False)
    space: Space = _setting(
        "srgb", "what is optimized: sRGB in [0, 1], or that as the network sees it"
    )
    clamp: bool = _setting(True, "keep every iterate within the colors that can be shown")
    picture: Picture = _setting("average", "which iterate of a scale is its picture")
    average_decay: float = _setting(
        0.99,
        "decay of the moving average that --picture=average takes",
        least=0,
        below=1,
        only=("picture", ("average",)),
    )
    content_loss: ContentLoss = _setting("relative", "formula of a layer's content term")
    content_weight: float = _setting(3.0, "factor of the content loss", least=0)
    content_layers: tuple[Layer, ...] = _setting(
        layers("relu4_2"), "layers to match, each with its weight unless that is 1"
    )
    style_loss: StyleLoss = _setting("moments", "formula of a layer's style term")
    style_weight: float = _setting(1.0, "factor of the style loss", least=0)
    style_layers: tuple[Layer, ...] = _setting(
        layers(relu1_1=64.0, relu2_1=16.0, relu3_1=4.0, relu4_1=1.0, relu5_1=0.5),
        "layers to match, each with its weight unless that is 1",
    )
    style_blend: tuple[float, ...] = _setting(
        (), "shares of several styles, as 2,1; equal if not given"
    )
    style_fit: StyleFit = _setting(
        "longest",
        "longest, shortest: the style image keeps its shape, and this side of it is the picture's "
        "times the style scale and never more than it has; stretch: it takes the picture's shape",
    )
    style_scale: float = _setting(1.0, "size of the style image, the picture's being 1", above=0)
    style_size: int = _setting(
        0,
        "that side of the style image in px at every scale; 0: follow the picture",
        least=0,
        only=("style_fit", ("longest", "shortest")),
    )
    tv_loss: TotalVariation = _setting("nine-point", "formula of the total variation")
    tv_weight: float = _setting(20.0, "factor of the total variation", least=0)
    range_weight: float = _setting(0.0, "factor of the penalty on colors outside [0, 1]", least=0)
    start: Start = _setting(
        "content", "first picture; style: noise with the mean and spread of the style's colors"
    )
    start_blend: float = _setting(
        1.0, "share of the first picture; the rest is the content image", least=0, most=1
    )
    network: NetworkName = _setting(
        "vgg19", "network whose maps the losses compare; stylize has it as an argument"
    )
    pooling: Pooling = _setting("max", "pooling of the network")
    pool_scale: float = _setting(1.0, "factor of the pooled maps", above=0)
    padding: Padding = _setting("replicate", "padding of the network's first convolution")
    precision: Literal["auto", Precision] = _setting(
        "auto",
        "of the network; the picture and all sums are float32 at least. auto: bfloat16 on a TPU or "
        "GPU that multiplies it, else float32",
    )
    conv: Literal["auto", Convolution] = _setting(
        "auto",
        "how convolutions are computed; winograd takes fewer multiplications and rounds more. "
        "auto: winograd on a CPU in float32 or bfloat16, else direct",
    )
    remat: Literal["auto", Remat] = _setting(
        "auto",
        "what is computed twice to save memory; blocks: the maps between two poolings. auto: "
        "nothing, or what it takes to fit",
    )
    tile: int = _setting(
        0,
        "compute a larger picture in tiles of this side in px, which takes the memory of one; the "
        "result is the same; 0: at once",
        least=0,
    )
    seed: int = _setting(0, "seed of everything drawn at random", least=0, below=2**32)

    def __post_init__(self) -> None:
        """Bring every value into its plain form, and check it."""
        for setting in dataclasses.fields(self):
            value = _plain(setting, getattr(self, setting.name))
            object.__setattr__(self, setting.name, value)  # as this class itself is frozen
            check_setting(setting, value)
        for name in ("content_layers", "style_layers"):
            if layers := getattr(self, name):
                try:
                    self.architecture.check_taps(layer.name for layer in layers)
                except InputError as error:
                    raise InputError(f"{name.replace('_', '-')}: {error}") from None
        if self.conv == "winograd" and self.precision == "tf32":
            raise InputError(
                "conv is winograd, which is for float32, bfloat16 and float64, but precision is "
                "tf32; leave one of the two out"
            )

    def resolve(
        self, platform: str, *, capability: float | None = None, devices: int = 1
    ) -> "ResolvedConfig":
        """Replace every "auto" by what suits a device; nothing else changes.

        Args:
          platform: JAX's name of it: cpu, gpu (or cuda, rocm), tpu.
          capability: the compute capability of an NVIDIA GPU, if it is known.
          devices: how many a picture is spread over. On several convolutions are direct: the
            partitioner cannot cut Winograd's tiles.

        Raises:
          InputError: if the device does not have the precision, or conv is winograd on several.
        """
        gpu, old = platform in ("gpu", "cuda", "rocm"), (capability or math.inf) < _AMPERE
        if self.precision == "tf32" and (old or not gpu):
            device = f"a GPU of compute capability {capability}" if gpu else f"a {platform}"
            raise InputError(
                f"precision is tf32, which {device} does not have; allowed are float32, bfloat16 "
                "and float64, or leave it out"
            )
        if self.conv == "winograd" and devices > 1:
            raise InputError(
                "conv is winograd, which is for one device; on several leave it out, or give direct"
            )
        precision, conv = self.precision, self.conv
        if precision == "auto":
            narrow = (gpu and not old) or platform == "tpu"
            precision = "bfloat16" if narrow and conv != "winograd" else "float32"
        if conv == "auto":
            fast = platform == "cpu" and devices == 1 and precision in ("float32", "bfloat16")
            conv = "winograd" if fast else "direct"
        remat = "none" if self.remat == "auto" else self.remat
        same = {setting.name: getattr(self, setting.name) for setting in dataclasses.fields(self)}
        return ResolvedConfig(**same | {"precision": precision, "conv": conv, "remat": remat})

    @property
    def architecture(self) -> Architecture:
        """The network's table."""
        return ARCHITECTURES[self.network]

    @property
    def taps(self) -> tuple[str, ...]:
        """The maps that the losses look at, in network order.

        Raises:
          InputError: if there is no layer at all.
        """
        layers = self.content_layers + self.style_layers
        return self.architecture.check_taps(layer.name for layer in layers)

    @property
    def dtype(self) -> ComputeDType:
        """The type of the feature maps.

        Raises:
          InputError: if the precision is auto, which is for a device to say; see `resolve`.
        """
        match self.precision:
            case "auto":
                raise InputError("precision is auto; Config.resolve makes it one for a device")
            case "tf32":
                return "float32"
            case precision:
                return precision

    @property
    def matmul_precision(self) -> Literal["highest", "tensorfloat32"] | None:
        """What `jax.default_matmul_precision` takes, for products of float32 numbers."""
        if self.precision == "tf32":
            return "tensorfloat32"
        return None if self.dtype == "bfloat16" else "highest"

    @property
    def image_dtype(self) -> Literal["float32", "float64"]:
        """The type of the picture, the optimizer and all sums: never less than float32."""
        return "float64" if self.dtype == "float64" else "float32"

    def check_given(self, names: Collection[str]) -> None:
        """Raise InputError if one of the settings named was given but means nothing here."""
        for setting in dataclasses.fields(self):
            other, values = setting.metadata.get("only", ("", ("",)))
            chosen = getattr(self, other, "")
            if setting.name in names and chosen not in values:
                name, other = (each.replace("_", "-") for each in (setting.name, other))
                raise InputError(
                    f"{name} is for the {other} {' or '.join(values)}, "
                    f"but the {other} is {chosen}; leave it out"
                )


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(Config):
    """Settings for a device, from `Config.resolve`: nothing is left to be chosen.

    Raises:
      InputError: at construction, if a value is out of range.
    """

    precision: Precision
    conv: Convolution
    remat: Remat


def _plain(setting: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return a value as Python has it: numbers for NumPy's scalars, tuples for lists.

    Layers may be given by name alone, as pairs of name and weight, or as a mapping of the two.
    """
    if isinstance(value, np.generic):
        return value.item()
    if setting.type == tuple[Layer, ...] and isinstance(value, Mapping):
        value = list(value.items())
    if isinstance(value, list):
        value = tuple(value)
    if setting.type != tuple[Layer, ...] or not isinstance(value, tuple):
        return value
    pairs = [(each,) if isinstance(each, str) else each for each in value]
    if not all(isinstance(pair, tuple) and 1 <= len(pair) <= 2 for pair in pairs):
        return value  # to be refused
    return tuple(Layer(*pair) for pair in pairs)


_KINDS: Mapping[Any, tuple[Callable[[Any], bool], str]] = {
    int: (lambda x: isinstance(x, int) and not isinstance(x, bool), "a whole number"),
    float: (lambda x: isinstance(x, int | float) and not isinstance(x, bool), "a number"),
    bool: (lambda x: isinstance(x, bool), "True or False"),
    tuple[float, ...]: (
        lambda x: isinstance(x, tuple) and all(isinstance(share, int | float) for share in x),
        "a tuple of numbers",
    ),
    tuple[Layer, ...]: (
        lambda x: isinstance(x, tuple) and all(_is_layer(layer) for layer in x),
        "layers, as layers('relu1_1', relu2_1=4.0) returns them",
    ),
}


def _is_layer(value: Any) -> bool:
    return (
        isinstance(value, Layer)
        and isinstance(value.name, str)
        and isinstance(value.weight, int | float)
    )


def format_setting(value: Any) -> str:
    """Write a setting as its flag takes it."""
    match value:
        case Layer(name, weight):
            return name if weight == 1 else f"{name}:{weight:.6g}"
        case tuple():
            return ",".join(map(format_setting, value)) or "none"
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def check_setting(setting: "dataclasses.Field[Any]", value: Any) -> None:
    """Raise InputError if `value` is not what the field's type and metadata allow."""
    name = setting.name.replace("_", "-")
    if choices := get_args(setting.type) if setting.type not in _KINDS else ():
        if value not in choices:
            raise InputError(f"{name} is {value!r}; allowed are {', '.join(map(str, choices))}")
        return
    holds, words = _KINDS[setting.type]
    if not holds(value):
        raise InputError(f"{name} is {value!r}; it must be {words}")
    if setting.type == tuple[Layer, ...]:
        _check_layers(name, value)
    elif isinstance(value, tuple):
        _check_shares(name, value)
    else:
        _check_bounds(setting, value)


def _check_bounds(setting: "dataclasses.Field[Any]", value: int | float) -> None:
    name, limits = setting.name.replace("_", "-"), setting.metadata
    bounds = []
    for limit, holds, words in (
        ("least", operator.ge, "at least"),
        ("above", operator.gt, "above"),
        ("most", operator.le, "at most"),
        ("below", operator.lt, "below"),
    ):
        if limit in limits:
            bounds.append((holds(value, limits[limit]), f"{words} {limits[limit]}"))
    if not math.isfinite(value) or not all(holds for holds, _ in bounds):
        allowed = " and ".join(text for _, text in bounds)
        raise InputError(f"{name} is {value}; it must be {allowed}")


def _check_layers(name: str, layers: tuple[Layer, ...]) -> None:
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        raise InputError(f"{name} names a layer twice: {', '.join(names)}")
    for layer in layers:
        if not (math.isfinite(layer.weight) and layer.weight >= 0):
            raise InputError(
                f"{name} gives {layer.name} the weight {layer.weight}; it must be at least 0"
            )


def _check_shares(name: str, shares: tuple[float, ...]) -> None:
    text = ",".join(map(str, shares))
    if shares and (not all(math.isfinite(x) and x >= 0 for x in shares) or sum(shares) == 0):
        raise InputError(f"{name} is {text}; shares must be at least 0, and one of them more")
