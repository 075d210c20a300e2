"""The settings of a run, their defaults, their allowed values, and the named presets.

This is the only home of defaults: the command line makes its flags from these fields.
"""

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from nst_jax.conv import Convolution
from nst_jax.errors import InputError
from nst_jax.pooling import Pooling
from nst_jax.vgg import Padding

Optimizer = Literal["adam", "lbfgs", "lbfgs-torch"]
Precision = Literal["float32", "tf32", "bfloat16", "float64"]
ComputeDType = Literal["float32", "bfloat16", "float64"]
# The first compute capability with matrix units for bfloat16 and TF32.
_AMPERE = 8.0
_LBFGS = ("lbfgs", "lbfgs-torch")


def _setting(default: Any, help: str, **metadata: Any) -> Any:
    """Make a field.

    In its metadata least, above and below bound its number, flag gives it a command-line flag, and
    optimizers names those that it is for (all, if absent).
    """
    return field(default=default, metadata={"help": help, "flag": True, **metadata})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a run. The defaults are those of the preset `pytorch`.

    Raises:
      InputError: at construction, if a value is out of range.
    """

    size: int = _setting(400, "longest side of the picture in px", least=1)
    steps: int = _setting(2000, "updates of the picture", least=1)
    optimizer: Optimizer = _setting(
        "adam",
        "lbfgs is optax's, with a line search; lbfgs-torch takes the steps of torch.optim.LBFGS",
    )
    learning_rate: float = _setting(
        0.003, "Adam's step size in normalized units", above=0, optimizers=("adam",)
    )
    memory_size: int = _setting(
        100, "pairs that L-BFGS remembers, two pictures each", least=1, optimizers=_LBFGS
    )
    beta1: float = _setting(0.5, "Adam's decay of the mean gradient", least=0, below=1, flag=False)
    beta2: float = _setting(0.999, "Adam's decay of its square", least=0, below=1, flag=False)
    content_weight: float = _setting(1.0, "factor of the content loss", least=0)
    style_weight: float = _setting(100.0, "factor of the style loss", least=0)
    content_layers: tuple[str, ...] = _setting(
        ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), "layers to match", flag=False
    )
    style_layers: tuple[str, ...] = _setting(
        ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), "layers to match", flag=False
    )
    pooling: Pooling = _setting("average", "pooling of the network")
    pool_scale: float = _setting(1.0, "factor of the pooled maps", above=0)
    padding: Padding = _setting("zeros", "padding of the network's first convolution")
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
    seed: int = _setting(0, "seed of everything drawn at random", least=0, below=2**32)

    def __post_init__(self) -> None:
        """Check every value."""
        for setting in dataclasses.fields(self):
            check_setting(setting, getattr(self, setting.name))
        if self.conv == "winograd" and self.precision == "tf32":
            raise InputError(
                "conv is winograd, which is for float32, bfloat16 and float64, but precision is "
                "tf32; leave one of the two out"
            )

    def resolve(self, platform: str, *, capability: float | None = None) -> "Config":
        """Replace every "auto" by what suits a device; nothing else changes.

        Args:
          platform: JAX's name of it: cpu, gpu (or cuda, rocm), tpu.
          capability: the compute capability of an NVIDIA GPU, if it is known.

        Raises:
          InputError: if the device does not have the precision.
        """
        gpu, old = platform in ("gpu", "cuda", "rocm"), (capability or math.inf) < _AMPERE
        if self.precision == "tf32" and (old or not gpu):
            device = f"a GPU of compute capability {capability}" if gpu else f"a {platform}"
            raise InputError(
                f"precision is tf32, which {device} does not have; allowed are float32, bfloat16 "
                "and float64, or leave it out"
            )
        precision, conv = self.precision, self.conv
        if precision == "auto":
            narrow = (gpu and not old) or platform == "tpu"
            precision = "bfloat16" if narrow and conv != "winograd" else "float32"
        if conv == "auto":
            fast = platform == "cpu" and precision in ("float32", "bfloat16")
            conv = "winograd" if fast else "direct"
        return replace(self, precision=precision, conv=conv)

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
            optimizers = setting.metadata.get("optimizers", (self.optimizer,))
            if setting.name in names and self.optimizer not in optimizers:
                raise InputError(
                    f"{setting.name.replace('_', '-')} is a setting of {' and '.join(optimizers)}, "
                    f"but the optimizer is {self.optimizer}; leave it out"
                )


def check_setting(setting: "dataclasses.Field[Any]", value: Any) -> None:
    """Raise InputError if `value` is outside what the field's metadata and type allow."""
    name = setting.name.replace("_", "-")
    choices = get_args(setting.type) if isinstance(value, str) else ()
    if choices and value not in choices:
        raise InputError(f"{name} is {value!r}; allowed are {', '.join(map(str, choices))}")
    if setting.type is int and isinstance(value, float):
        raise InputError(f"{name} is {value}; it must be a whole number")
    if not isinstance(value, int | float):
        return
    limits = setting.metadata
    bounds = []
    if "least" in limits:
        bounds.append((value >= limits["least"], f"at least {limits['least']}"))
    if "above" in limits:
        bounds.append((value > limits["above"], f"above {limits['above']}"))
    if "below" in limits:
        bounds.append((value < limits["below"], f"below {limits['below']}"))
    if not math.isfinite(value) or not all(holds for holds, _ in bounds):
        allowed = " and ".join(text for _, text in bounds)
        raise InputError(f"{name} is {value}; it must be {allowed}")


PRESETS = MappingProxyType(
    {
        # The PyTorch program that this project reimplements: all constants are Config's defaults.
        "pytorch": Config(),
    }
)


def preset(name: str) -> Config:
    """Return the named preset.

    Raises:
      InputError: if there is none of that name.
    """
    if name not in PRESETS:
        raise InputError(f"preset is {name!r}; allowed are {', '.join(PRESETS)}")
    return PRESETS[name]
