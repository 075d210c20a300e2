"""The presets: our own recipes, and the settings of well-known programs, each with its source.

docs/presets.md compares the presets, and lists where they deviate from the programs.
"""

from dataclasses import replace
from types import MappingProxyType

from nst_jax.config import Config, Layer, SettingError, layers

_RELUS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")
_CHANNELS = (64, 128, 256, 512, 512)

# Ours, for prints, drawings and cut paper: the Wasserstein-2 distance keeps flat colors cleaner
# than the default's loss (docs/presets.md). Its values are smaller, so the style counts more.
_GRAPHIC = Config(style_loss="relative-wasserstein", style_weight=4.0, content_weight=6.0)

# The settings that the programs with a single scale have in common.
_ONE_SCALE = Config(
    min_size=0,
    picture="last",
    clamp=False,
    content_loss="mean",
    content_weight=1.0,
    content_layers=layers("relu4_2"),
    tv_weight=0.0,
    pooling="max",
    padding="zeros",
)

# The program that this project reimplements.
_PYTORCH = replace(
    _ONE_SCALE,
    size=400,
    steps=2000,
    learning_rate=0.003,
    beta1=0.5,
    beta2=0.999,
    space="normalized",
    content_layers=layers(*_RELUS),
    style_loss="pytorch",
    style_weight=100.0,
    style_layers=layers(*_RELUS),
    style_fit="stretch",
    pooling="average",
)

# Gatys, Ecker and Bethge, arXiv 1508.06576: eqs. 1, 4, 5 and 7, with alpha/beta = 1e-3, white noise
# and average pooling. The paper names neither the number of steps nor the noise. Its network is
# that of Simonyan and Zisserman as published.
_GATYS_PAPER = replace(
    _ONE_SCALE,
    steps=1000,
    optimizer="lbfgs",
    start="noise",
    content_loss="half-sum",
    style_loss="gatys-paper",
    style_weight=1000.0,
    style_layers=tuple(Layer(name, 1 / 5) for name in _RELUS),
    style_fit="stretch",
    activations="caffe",
    pooling="average",
)

# github.com/leongatys/PytorchNeuralStyleTransfer, NeuralStyleTransfer.ipynb, the first resolution:
# 26 calls of torch.optim.LBFGS.step make 20 updates each. Its network's mean activations are 1. The
# notebook's style weight is 1, with which the photograph itself is nearly the minimum
# (docs/presets.md); 100 is ours.
_GATYS_CODE = replace(
    _ONE_SCALE,
    side="shortest",
    steps=520,
    optimizer="lbfgs-torch",
    style_loss="gatys-code",
    style_weight=100.0,
    style_layers=tuple(Layer(n, 1e3 / c**2) for n, c in zip(_RELUS, _CHANNELS, strict=True)),
    style_fit="shortest",
    activations="normalized",
)

# github.com/jcjohnson/neural-style, neural_style.lua, with the network as published for Caffe. Its
# pixel values are 256 times ours, and it defines the total variation by its gradient only.
_NEURAL_STYLE = replace(
    _ONE_SCALE,
    steps=1000,
    optimizer="lbfgs-torch",
    start="gray",
    content_weight=5.0,
    style_loss="neural-style",
    style_weight=100.0,
    style_layers=layers(*_RELUS),
    tv_loss="l2",
    tv_weight=1e-3 * 256**2,
    activations="caffe",
)

# github.com/pytorch/tutorials, advanced_source/neural_style_tutorial.py. Its layers are taken
# before the ReLU; 16 calls of torch.optim.LBFGS.step make 20 updates each.
_PYTORCH_TUTORIAL = replace(
    _ONE_SCALE,
    side="shortest",
    steps=320,
    optimizer="lbfgs-torch",
    clamp=True,
    content_layers=layers("conv2_2"),
    style_loss="neural-style",
    style_weight=1e6,
    style_layers=layers("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1"),
    style_fit="stretch",
)

# github.com/crowsonkb/style-transfer-pytorch, style_transfer.py and cli.py.
_CROWSON = Config(
    size=512,
    min_size=128,
    scale_factor=2**0.5,
    first_steps=1000,
    steps=500,
    learning_rate=0.02,
    beta1=0.9,
    beta2=0.99,
    space="srgb",
    clamp=True,
    picture="average",
    average_decay=0.99,
    content_loss="mean",
    content_weight=0.015,
    content_layers=layers("relu4_2"),
    style_loss="wasserstein",
    style_weight=1.0,
    style_layers=tuple(
        Layer(name, weight / 341) for name, weight in zip(_RELUS, (256, 64, 16, 4, 1), strict=True)
    ),
    tv_loss="nine-point",
    tv_weight=2.0,
    pooling="max",
    pool_scale=1.0,
    padding="replicate",
)

PRESETS = MappingProxyType(
    {
        "default": Config(),
        "graphic": _GRAPHIC,
        "pytorch": _PYTORCH,
        "gatys-paper": _GATYS_PAPER,
        "gatys-code": _GATYS_CODE,
        "neural-style": _NEURAL_STYLE,
        "pytorch-tutorial": _PYTORCH_TUTORIAL,
        "crowson": _CROWSON,
    }
)


def preset(name: str) -> Config:
    """Return the settings of a preset.

    Args:
      name: one of `PRESETS`.

    Raises:
      SettingError: an InputError; if there is no preset of that name.

    Examples:
      >>> from dataclasses import replace
      >>> from nst_jax import preset
      >>> config = replace(preset("pytorch"), steps=500)
      >>> config.learning_rate, config.steps
      (0.003, 500)
    """
    if name not in PRESETS:
        raise SettingError("preset", f" is {name!r}; allowed are {', '.join(PRESETS)}")
    return PRESETS[name]
