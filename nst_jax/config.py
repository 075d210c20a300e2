"""The settings of a run, with their defaults and their allowed values.

All defaults are here: the command line makes its flags from these fields.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from nst_jax.color import ColorMatch
from nst_jax.errors import InputError, choice_fault
from nst_jax.geometry import SIZES, Side, Size, Wrap, plain_size
from nst_jax.losses.regularizers import TotalVariation
from nst_jax.losses.terms import ContentLoss, StyleLoss
from nst_jax.network.activations import Activations
from nst_jax.network.architecture import ARCHITECTURES, Architecture, NetworkName
from nst_jax.network.conv import Convolution
from nst_jax.network.pooling import Pooling
from nst_jax.network.vgg import NetworkOptions, Padding, Remat
from nst_jax.optimizers.averaging import Picture

Optimizer = Literal["adam", "lbfgs", "lbfgs-torch"]
OnNan = Literal["stop", "backoff"]
Precision = Literal["float32", "tf32", "bfloat16", "float64"]
Space = Literal["srgb", "normalized"]
Color = Literal["style", "keep", "match", "style-only"]
Start = Literal["content", "noise", "gray", "style"]
StyleFit = Literal["longest", "shortest", "stretch"]
ComputeDType = Literal["float32", "bfloat16", "float64"]
# The settings with an effect where no steps are made.
_WITHOUT_STEPS = ("size", "side", "style_blend", "color", "color_match")
# The first compute capability with matrix units for bfloat16 and TF32.
_AMPERE = 8.0


class SettingError(InputError):
    """A mistake in a setting. The message begins with the setting's name in Python.

    Args:
      name: the setting, a field of `Config`.
      text: the rest of the message.

    Attributes:
      in_flags: the message with the setting's flag in place of its name.
    """

    def __init__(self, name: str, text: str):
        super().__init__(name + text)
        self.in_flags = flag_of(name) + text


def flag_of(name: str) -> str:
    """Return the flag of the command line for a field of `Config`."""
    return f"--{name.replace('_', '-')}"


class Layer(NamedTuple):
    """A tap of the network, and the weight of its loss term."""

    name: str
    weight: float = 1.0


class LayerBlend(NamedTuple):
    """The shares of several style images at a style layer."""

    name: str
    shares: tuple[float, ...]


def layers(*names: str, **weights: float) -> tuple[Layer, ...]:
    """Return layers with their weights: `layers("relu1_1", "relu2_1")`, `layers(relu1_1=256)`.

    Args:
      names: taps of the network, each with the weight 1.
      weights: taps of the network, each with its weight.

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
    """Return a dataclass field with its help text and its limits in the metadata.

    In the metadata `least`, `above`, `most` and `below` bound a number; `flag` says whether the
    command line has a flag for the field; `only` names another setting, and its values for which
    this setting has an effect; `live` says that the setting may change while a picture is painted.
    """
    return field(default=default, metadata={"help": help, "flag": True, **metadata})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run. The defaults are our own recipe, the preset `default`.

    Each field has its help text and its bounds in its metadata. A new value of a number that is an
    input of the compiled program costs no compilation.

    Layers may also be given as text, `"relu1_1:64,relu2_1"`, as a mapping `{"relu1_1": 64.0}`, or
    as names and pairs `("relu1_1", ("relu2_1", 4.0))`; the shares of styles as text, `"2,1"`, or as
    a list; those of layers as text, `"relu4_1:0:1"`, or as a mapping `{"relu4_1": (0, 1)}`; and
    every number as a scalar of NumPy or JAX. The fields hold Python's own types.

    Raises:
      InputError: at construction, if a value is out of range.
    """

    size: Size = _setting(
        512,
        "length in px of the side that --side names; 1920x1080: as large as fits into this width "
        "and height; 12MP: as large as so many megapixels allow; original: that of the content "
        "image; max: the largest that fits in memory",
    )
    side: Side = _setting("longest", "the side of the picture that --size sets, if in px")
    wrap: Wrap = _setting(
        "none",
        "sides of the picture whose two ends meet without a seam; x: left and right, as in a "
        "panorama; both: also top and bottom, as in a tile of a pattern; these sides become "
        "multiples of 16 px",
    )
    min_size: int = _setting(
        128, "lower limit of the first scale's longest side in px; 0: one scale only", least=0
    )
    scale_factor: float = _setting(2**0.5, "ratio of the sides of successive scales", above=1)
    steps: int = _setting(
        34, "updates at each scale after the first; with --min-size=0 at the only scale", least=1
    )
    first_steps: int = _setting(
        110, "updates at the first scale, which may be the only one; not with --min-size=0", least=1
    )
    stop_change: float = _setting(
        0.0,
        "end a scale where the picture's mean change is less, in levels of 255 a step; 0: never",
        least=0,
    )
    on_nan: OnNan = _setting(
        "stop",
        "what to do where a number becomes infinite or no number; stop: end with the last good "
        "picture; backoff: go back to a good state and make steps of a quarter of the length, six "
        "times at most",
        only=("optimizer", ("adam", "lbfgs-torch")),
    )
    optimizer: Optimizer = _setting(
        "adam",
        "lbfgs: optax's L-BFGS, with a line search; lbfgs-torch: the steps of torch.optim.LBFGS",
    )
    learning_rate: float = _setting(
        0.03,
        "step size of Adam, in units of --space",
        above=0,
        only=("optimizer", ("adam",)),
        live=True,
    )
    memory_size: int = _setting(
        100,
        "past steps that L-BFGS keeps; each takes the memory of two pictures",
        least=1,
        only=("optimizer", ("lbfgs", "lbfgs-torch")),
    )
    beta1: float = _setting(0.8, "Adam's decay of the mean gradient", least=0, below=1, flag=False)
    beta2: float = _setting(0.95, "Adam's decay of the mean square", least=0, below=1, flag=False)
    space: Space = _setting(
        "srgb",
        "space of the optimized picture; srgb: sRGB in [0, 1]; normalized: the network's input",
    )
    clamp: bool = _setting(True, "clip the picture after every step to the colors of sRGB")
    picture: Picture = _setting("average", "result of a scale; best: its iterate of least loss")
    average_decay: float = _setting(
        0.85,
        "decay of the moving average of --picture=average",
        least=0,
        below=1,
        only=("picture", ("average",)),
    )
    content_loss: ContentLoss = _setting("relative", "formula of a layer's content term")
    content_weight: float = _setting(3.0, "factor of the content loss", least=0, live=True)
    content_layers: tuple[Layer, ...] = _setting(
        layers("relu4_2"), "content layers; a layer without a weight has the weight 1"
    )
    style_loss: StyleLoss = _setting("moments", "formula of a layer's style term")
    style_weight: float = _setting(1.0, "factor of the style loss", least=0, live=True)
    style_layers: tuple[Layer, ...] = _setting(
        layers(relu1_1=64.0, relu2_1=16.0, relu3_1=4.0, relu4_1=1.0, relu5_1=0.5),
        "style layers; a layer without a weight has the weight 1",
    )
    style_blend: tuple[float, ...] = _setting(
        (), "shares of several style images, such as 2,1; equal if not given"
    )
    style_layer_blend: tuple[LayerBlend, ...] = _setting(
        (),
        "style layers where the styles have other shares; relu4_1:0:1,relu5_1:0:1 takes broad "
        "forms from the second style alone",
    )
    style_fit: StyleFit = _setting(
        "longest",
        "longest, shortest: the style image keeps its aspect ratio; this side of it is the "
        "picture's times --style-scale, or its own if that is less; stretch: the style image takes "
        "the picture's shape",
    )
    style_scale: float = _setting(1.0, "size of the style image relative to the picture", above=0)
    style_size: int = _setting(
        0,
        "length in px, at every scale, of the side that --style-fit names; 0: follow the picture",
        least=0,
        only=("style_fit", ("longest", "shortest")),
    )
    tv_loss: TotalVariation = _setting("nine-point", "formula of the total variation")
    tv_weight: float = _setting(20.0, "factor of the total variation", least=0)
    range_weight: float = _setting(0.0, "factor of the penalty on colors outside [0, 1]", least=0)
    temporal_weight: float = _setting(
        200.0,
        "factor of the mean squared difference of a frame of --sequence from the one before it, "
        "where that shows the same",
        least=0,
    )
    color: Color = _setting(
        "style",
        "whose colors the picture gets; keep: the content's own, as the style acts on lightness "
        "alone; match: the style's after they were moved to the content's, see --color-match; "
        "style-only: the style's, and nothing else of it: the content's colors are moved to them, "
        "without steps and without a network",
    )
    color_match: ColorMatch = _setting(
        "symmetric",
        "linear map that moves the mean and covariance of colors: of the style to the content's, "
        "or with style-only of the content to the style's",
        only=("color", ("match", "style-only")),
    )
    start: Start = _setting(
        "content", "first picture; style: noise with the mean and deviation of the style's colors"
    )
    start_blend: float = _setting(
        1.0, "share of --start in the first picture; the rest is the content image", least=0, most=1
    )
    network: NetworkName = _setting(
        "vgg19", "network whose feature maps the losses compare; in Python an argument of stylize"
    )
    activations: Activations = _setting(
        "own",
        "scale of the feature maps, to which the weights of the losses belong; normalized, caffe: "
        "that of the networks of gatys-code and neural-style; own: that of the network as it is",
    )
    pooling: Pooling = _setting("max", "pooling of the network")
    pool_scale: float = _setting(1.0, "factor of the pooled maps", above=0)
    padding: Padding = _setting("replicate", "padding of the network's first convolution")
    precision: Literal["auto", Precision] = _setting(
        "auto",
        "precision of the network; the picture and all sums are float32 at least. auto: bfloat16 "
        "on a TPU, or on a GPU with matrix units for it; else float32",
    )
    conv: Literal["auto", Convolution] = _setting(
        "auto",
        "algorithm of the convolutions; winograd takes fewer multiplications and rounds more. "
        "auto: winograd on a CPU in float32 or bfloat16, else direct",
    )
    remat: Literal["auto", Remat] = _setting(
        "auto",
        "maps that are computed twice to save memory; blocks: those between two poolings. auto: "
        "none, or blocks if the memory requires it",
    )
    tile: int = _setting(
        0,
        "compute a larger picture in tiles of this side in px, with the memory of one tile and the "
        "same result; 0: no tiles",
        least=0,
    )
    seed: int = _setting(0, "seed of all random numbers", least=0, below=2**32)

    def __post_init__(self) -> None:
        """Bring every value into its plain form, and check it."""
        for setting in dataclasses.fields(self):
            value = checked(setting, getattr(self, setting.name))
            object.__setattr__(self, setting.name, value)  # the dataclass is frozen
        for name in ("content_layers", "style_layers"):
            if layers := getattr(self, name):
                try:
                    self.architecture.check_taps(layer.name for layer in layers)
                except InputError as error:
                    raise SettingError(name, f": {error}") from None
        known = [layer.name for layer in self.style_layers]
        if other := [blend.name for blend in self.style_layer_blend if blend.name not in known]:
            raise SettingError(
                "style_layer_blend",
                f" names {other[0]}, which is no style layer; allowed are {', '.join(known)}",
            )
        if self.conv == "winograd" and self.precision == "tf32":
            raise SettingError(
                "conv",
                " is winograd, which is for float32, bfloat16 and float64, but precision is tf32; "
                "leave one of the two out",
            )
        if self.wrap != "none" and self.tile:
            raise SettingError(
                "wrap",
                f" is {self.wrap}, which is for a picture that is computed at once, but tile is "
                f"{self.tile}; leave one of the two out",
            )

    def resolve(
        self, platform: str, *, capability: float | None = None, devices: int = 1
    ) -> "ResolvedConfig":
        """Replace every "auto" by a value that suits the device; nothing else changes.

        Args:
          platform: JAX's name of the device's platform: cpu, gpu (or cuda, rocm), tpu.
          capability: the compute capability of an NVIDIA GPU, if it is known.
          devices: how many devices a picture is spread over. On several devices convolutions are
            direct, since the partitioner cannot cut Winograd's tiles.

        Raises:
          SettingError: an InputError; if the device does not have the precision, or conv is
            winograd on several devices.
        """
        gpu, old = platform in ("gpu", "cuda", "rocm"), (capability or math.inf) < _AMPERE
        if self.precision == "tf32" and (old or not gpu):
            device = f"a GPU of compute capability {capability}" if gpu else f"a {platform}"
            raise SettingError(
                "precision",
                f" is tf32, which {device} does not have; allowed are float32, bfloat16 and "
                "float64, or leave it out",
            )
        if self.conv == "winograd" and devices > 1:
            raise SettingError(
                "conv",
                " is winograd, which is for one device; on several leave it out, or give direct",
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
        """The taps whose feature maps the losses compare, in network order.

        Raises:
          InputError: if there are no layers.
        """
        layers = self.content_layers + self.style_layers
        return self.architecture.check_taps(layer.name for layer in layers)

    @property
    def dtype(self) -> ComputeDType:
        """The type of the feature maps.

        Raises:
          InputError: if the precision is auto; `resolve` chooses one for a device.
        """
        match self.precision:
            case "auto":
                raise InputError("precision is auto; Config.resolve chooses one for a device")
            case "tf32":
                return "float32"
            case precision:
                return precision

    @property
    def matmul_precision(self) -> Literal["highest", "tensorfloat32"] | None:
        """The value for `jax.default_matmul_precision`: the precision of float32 products."""
        if self.precision == "tf32":
            return "tensorfloat32"
        return None if self.dtype == "bfloat16" else "highest"

    @property
    def image_dtype(self) -> Literal["float32", "float64"]:
        """The type of the picture, the optimizer and all sums: never less than float32."""
        return "float64" if self.dtype == "float64" else "float32"

    def check_given(self, names: Collection[str]) -> None:
        """Raise SettingError, an InputError, if a named setting has no effect beside the others."""
        if "side" in names and not isinstance(self.size, int):
            raise SettingError(
                "side",
                f" is for a size in px of one side, but the size is {self.size}; leave it out",
            )
        for name in sorted(names) if self.color == "style-only" else ():
            if name not in _WITHOUT_STEPS:
                raise SettingError(
                    name,
                    " has no effect with the color style-only, which makes no steps; leave it out",
                )
        for setting in dataclasses.fields(self):
            other, values = setting.metadata.get("only", ("", ("",)))
            chosen = getattr(self, other, "")
            if setting.name in names and chosen not in values:
                other = other.replace("_", " ")
                raise SettingError(
                    setting.name,
                    f" is for the {other} {' or '.join(values)}, but the {other} is {chosen}; "
                    "leave it out",
                )


@dataclass(frozen=True, kw_only=True)
class ResolvedConfig(Config):
    """Settings for a device, from `Config.resolve`: no setting is auto.

    Raises:
      InputError: at construction, if a value is out of range.
    """

    precision: Precision
    conv: Convolution
    remat: Remat

    @property
    def network_options(self) -> NetworkOptions:
        """How the network computes: the keywords of `VGG`."""
        return {
            "pooling": self.pooling,
            "pool_scale": self.pool_scale,
            "padding": self.padding,
            "dtype": self.dtype,
            "conv": self.conv,
            "remat": self.remat,
            "wrap": self.wrap,
        }


def _scalar(kinds: Any, value: Any) -> Any:
    """Return a number in Python's type; also one of NumPy, JAX or PyTorch."""
    plain = value.item() if getattr(value, "ndim", None) == 0 else value
    if not isinstance(plain, kinds) or isinstance(plain, bool) != (kinds is bool):
        raise TypeError
    return plain


_number = functools.partial(_scalar, int | float)


def _size(value: Any) -> Size:
    return plain_size(value if isinstance(value, str) else _scalar(int, value))


def _parts(value: Any) -> Any:
    """Return the parts of a setting that has several: of a text, a mapping, a list or a tuple."""
    match value:
        case "" | "none":
            return ()
        case str():
            return value.split(",")
        case Mapping():
            return value.items()
        case list() | tuple():
            return value
        case _:
            raise TypeError


def _shares(value: Any) -> tuple[float, ...]:
    return tuple(float(x) if isinstance(x, str) else _number(x) for x in _parts(value))


def _layer(value: Any) -> Layer:
    match value:
        case str():
            name, colon, weight = value.partition(":")
            return Layer(name.strip(), float(weight) if colon else 1.0)
        case [str(name)]:
            return Layer(name)
        case [str(name), weight]:
            return Layer(name, _number(weight))
        case _:
            raise TypeError


def _layer_blend(value: Any) -> LayerBlend:
    match value:
        case str():
            name, *shares = value.split(":")
            return LayerBlend(name.strip(), _shares(list(shares)))
        case [str(name), shares]:
            return LayerBlend(name, _shares(shares))
        case _:
            raise TypeError


# For each type the function that brings a value into its plain form, or raises TypeError or
# ValueError, and what the value must be. Other types are choices.
_KINDS: Mapping[Any, tuple[Callable[[Any], Any], str]] = {
    int: (functools.partial(_scalar, int), "a whole number"),
    float: (lambda value: float(_number(value)), "a number"),
    bool: (functools.partial(_scalar, bool), "True or False"),
    Size: (_size, SIZES),
    tuple[float, ...]: (_shares, "numbers, as 2,1"),
    tuple[Layer, ...]: (
        lambda value: tuple(map(_layer, _parts(value))),
        "layers with weights, as relu1_1:256,relu2_1:64",
    ),
    tuple[LayerBlend, ...]: (
        lambda value: tuple(map(_layer_blend, _parts(value))),
        "layers with shares, as relu4_1:0:1,relu5_1:0:1",
    ),
}


def format_setting(value: Any) -> str:
    """Return the value of a setting as the text that its flag takes."""
    match value:
        case Layer(name, weight):
            return name if weight == 1 else f"{name}:{weight:.6g}"
        case LayerBlend(name, shares):
            return ":".join([name, *map(format_setting, shares)])
        case tuple():
            return ",".join(map(format_setting, value)) or "none"
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def plain_settings(config: Config) -> dict[str, Any]:
    """Return every setting by its name as a value of JSON or TOML; `Config` takes them all."""

    def plain(value: Any) -> Any:
        match value:
            case (Layer(), *_):
                return {layer.name: layer.weight for layer in value}
            case (LayerBlend(), *_):
                return {blend.name: list(blend.shares) for blend in value}
            case tuple():
                return list(value)
            case _:
                return value

    names = [setting.name for setting in dataclasses.fields(config)]
    return {name: plain(getattr(config, name)) for name in names}


def checked(setting: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return a value of a setting in its plain form: Python's numbers, tuples of them, layers.

    Args:
      setting: the field of `Config`.
      value: see `Config`.

    Raises:
      SettingError: an InputError; if the value is not what the field's type and metadata allow.
    """
    if setting.type not in _KINDS:
        if fault := choice_fault(value, setting.type):
            raise SettingError(setting.name, fault)
        return str(value)  # also NumPy's
    convert, words = _KINDS[setting.type]
    try:
        plain = convert(value)
    except (TypeError, ValueError, OverflowError):
        raise SettingError(setting.name, f" is {value!r}; it must be {words}") from None
    if setting.type == tuple[Layer, ...]:
        _check_layers(setting.name, plain)
    elif setting.type == tuple[LayerBlend, ...]:
        _check_once(setting.name, [blend.name for blend in plain])
        for blend in plain:
            _check_shares(setting.name, blend.shares, least=1)
    elif isinstance(plain, tuple):
        _check_shares(setting.name, plain)
    elif setting.type != Size:
        _check_bounds(setting, plain)
    return plain


def checked_live(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return numbers that change while a picture is painted, in their plain form.

    Args:
      numbers: by the names of settings.

    Raises:
      SettingError: an InputError; if a setting may not change, or a number is not allowed.
    """
    live = {field.name: field for field in dataclasses.fields(Config) if "live" in field.metadata}
    for name in numbers:
        if name not in live:
            raise SettingError(name, f" cannot change on the way; allowed are {', '.join(live)}")
    return {name: checked(live[name], value) for name, value in numbers.items()}


def _check_bounds(setting: "dataclasses.Field[Any]", value: int | float) -> None:
    limits, bounds = setting.metadata, []
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
        raise SettingError(setting.name, f" is {value}; it must be {allowed}")


def _check_once(name: str, layers: Sequence[str]) -> None:
    if len(set(layers)) < len(layers):
        raise SettingError(name, f" names a layer twice: {', '.join(layers)}")


def _check_layers(name: str, layers: tuple[Layer, ...]) -> None:
    _check_once(name, [layer.name for layer in layers])
    for layer in layers:
        if not (math.isfinite(layer.weight) and layer.weight >= 0):
            raise SettingError(
                name, f" gives {layer.name} the weight {layer.weight}; it must be at least 0"
            )


def _check_shares(name: str, shares: tuple[float, ...], *, least: int = 0) -> None:
    text = ",".join(map(str, shares)) or "none"
    if len(shares) < least or (
        shares and (not all(math.isfinite(x) and x >= 0 for x in shares) or sum(shares) == 0)
    ):
        raise SettingError(name, f" is {text}; shares must be at least 0, and one of them above 0")
