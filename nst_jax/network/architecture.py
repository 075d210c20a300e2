"""The table of networks, the names of their taps, and the sizes that follow from the table.

Simonyan and Zisserman, arXiv 1409.1556, configurations D (VGG-16) and E (VGG-19), convolutions
only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from nst_jax.errors import InputError

NetworkName = Literal["vgg19", "vgg16"]


@dataclass(frozen=True)
class Conv:
    """One row of the architecture table: the 3x3 convolution `conv{block}_{index}`."""

    block: int
    index: int
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        """Name of the tap before the ReLU, and prefix of the parameters' names."""
        return f"conv{self.block}_{self.index}"

    @property
    def relu(self) -> str:
        """Name of the tap after the ReLU."""
        return f"relu{self.block}_{self.index}"

    @property
    def pooled(self) -> bool:
        """Whether a pooling comes before: the row begins a block other than the first."""
        return self.index == 1 and self.block > 1


@dataclass(frozen=True)
class Architecture:
    """A network of 3x3 convolutions, each with a ReLU, in blocks with a pooling between them.

    Attributes:
      name: as in `Config.network` and in files of weights.
      title: the name in messages.
      channels: output channels of every convolution, block by block.
    """

    name: NetworkName
    title: str
    channels: tuple[tuple[int, ...], ...]

    @cached_property
    def convs(self) -> tuple[Conv, ...]:
        """Every convolution, in network order."""
        rows, inputs = [], 3
        for block, widths in enumerate(self.channels, start=1):
            for index, outputs in enumerate(widths, start=1):
                rows.append(Conv(block, index, inputs, outputs))
                inputs = outputs
        return tuple(rows)

    @cached_property
    def taps(self) -> tuple[str, ...]:
        """The names of all feature maps, before and after each ReLU, in network order."""
        return tuple(tap for conv in self.convs for tap in (conv.name, conv.relu))

    def convs_to(self, deepest: str | None = None) -> tuple[Conv, ...]:
        """Return the convolutions up to a tap, by default up to the last one.

        Raises:
          InputError: if the network has no such tap.
        """
        (tap,) = self.check_taps([deepest or self.taps[-1]])
        return self.convs[: self.taps.index(tap) // 2 + 1]

    def check_taps(self, taps: Iterable[str]) -> tuple[str, ...]:
        """Return `taps` without repeats in network order.

        Raises:
          InputError: if `taps` is empty, or a name is not in `Architecture.taps`.
        """
        wanted = set(taps)
        unknown = sorted(wanted - set(self.taps))
        if unknown or not wanted:
            given = ", ".join(map(repr, unknown)) or "none"
            first, last = self.convs[0], self.convs[-1]
            indices = ", ".join(f"{b}_1-{b}_{len(x)}" for b, x in enumerate(self.channels, start=1))
            raise InputError(
                f"unknown {self.title} layer: {given}; allowed are {first.name} … {last.name} "
                f"(before the ReLU) and {first.relu} … {last.relu} (after it), with indices "
                f"{indices}"
            )
        return tuple(tap for tap in self.taps if tap in wanted)

    def stride(self, tap: str) -> int:
        """Px of the image's side for each position of a tap's map; a remainder is dropped."""
        return int(2 ** (self.convs_to(tap)[-1].block - 1))

    def positions(self, tap: str, height: int, width: int) -> int:
        """Number of positions of a tap's map for a height x width image."""
        return (height // self.stride(tap)) * (width // self.stride(tap))

    def outputs(self, tap: str) -> int:
        """Number of channels of a tap's map."""
        return self.convs_to(tap)[-1].outputs

    def minimum_size(self, taps: Iterable[str]) -> int:
        """Shortest side in px of the smallest image for which every tap has a position."""
        return self.stride(self.check_taps(taps)[-1])

    def check_size(self, height: int, width: int, taps: Iterable[str]) -> None:
        """Raise InputError if a height x width image is too small for `taps`."""
        names = self.check_taps(taps)
        least = self.minimum_size(names)
        if min(height, width) < least:
            raise InputError(
                f"an image of {width}x{height} px is too small for the layer {names[-1]}: "
                f"both sides must be at least {least} px"
            )

    def parameter_shapes(self, deepest: str | None = None) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters up to a tap, by default the last one, by parameter name.

        "conv1_1.kernel" is (3, 3, inputs, outputs), and so on.
        """
        shapes: dict[str, tuple[int, ...]] = {}
        for conv in self.convs_to(deepest):
            shapes[f"{conv.name}.kernel"] = (3, 3, conv.inputs, conv.outputs)
            shapes[f"{conv.name}.bias"] = (conv.outputs,)
        return shapes


_TABLE = (
    Architecture("vgg19", "VGG-19", ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)),
    Architecture("vgg16", "VGG-16", ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)),
)
ARCHITECTURES: Mapping[NetworkName, Architecture] = MappingProxyType(
    {each.name: each for each in _TABLE}
)
# Stride of the deepest tap of any network, in px.
STRIDE = max(each.stride(each.taps[-1]) for each in _TABLE)
