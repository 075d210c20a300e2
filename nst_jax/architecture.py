"""The architecture of VGG-19 as a table, its taps by name, and what follows from both.

Simonyan and Zisserman, arXiv 1409.1556, configuration E, convolutions only.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from nst_jax.errors import InputError

# The architecture: output channels of every convolution, block by block; a pooling between blocks.
CHANNELS = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4)


@dataclass(frozen=True)
class Conv:
    """One row of the architecture table: the 3x3 convolution `conv{block}_{index}`."""

    block: int
    index: int
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        """The tap before the ReLU, and the stem of the parameters' names."""
        return f"conv{self.block}_{self.index}"

    @property
    def relu(self) -> str:
        """The tap after the ReLU."""
        return f"relu{self.block}_{self.index}"


def _architecture() -> tuple[Conv, ...]:
    rows, inputs = [], 3
    for block, widths in enumerate(CHANNELS, start=1):
        for index, outputs in enumerate(widths, start=1):
            rows.append(Conv(block, index, inputs, outputs))
            inputs = outputs
    return tuple(rows)


CONVS = _architecture()
TAPS = tuple(tap for conv in CONVS for tap in (conv.name, conv.relu))


def convs_to(deepest: str) -> tuple[Conv, ...]:
    """Return the convolutions that it takes to compute a tap.

    Raises:
      InputError: if there is no such tap.
    """
    (tap,) = check_taps([deepest])
    return CONVS[: TAPS.index(tap) // 2 + 1]


def check_taps(taps: Iterable[str]) -> tuple[str, ...]:
    """Return `taps` without repeats in network order.

    Raises:
      InputError: if there is none, or a name is not in `TAPS`.
    """
    wanted = set(taps)
    unknown = sorted(wanted - set(TAPS))
    if unknown or not wanted:
        given = ", ".join(map(repr, unknown)) or "none"
        raise InputError(
            f"unknown VGG-19 layer: {given}; allowed are conv1_1 … conv5_4 (before the ReLU) and "
            f"relu1_1 … relu5_4 (after it), with indices {_indices()}"
        )
    return tuple(tap for tap in TAPS if tap in wanted)


def _indices() -> str:
    return ", ".join(f"{b}_1-{b}_{len(widths)}" for b, widths in enumerate(CHANNELS, start=1))


def stride(tap: str) -> int:
    """How many px of the image's side become one position of a tap's map; rests are dropped."""
    return int(2 ** (convs_to(tap)[-1].block - 1))


def channels(tap: str) -> int:
    """How many channels a tap's map has."""
    return convs_to(tap)[-1].outputs


def minimum_size(taps: Iterable[str]) -> int:
    """Shortest side in px of the smallest image for which every tap has at least one position."""
    return stride(check_taps(taps)[-1])


def check_size(height: int, width: int, taps: Iterable[str]) -> None:
    """Raise InputError if a height x width image is too small for `taps`."""
    names = check_taps(taps)
    least = minimum_size(names)
    if min(height, width) < least:
        raise InputError(
            f"an image of {width}x{height} px is too small for the layer {names[-1]}: "
            f"both sides must be at least {least} px"
        )


def parameter_shapes(deepest: str = TAPS[-1]) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter that a tap takes, by name: "conv1_1.kernel" is (3, 3, inputs,
    outputs), and so on.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for conv in convs_to(deepest):
        shapes[f"{conv.name}.kernel"] = (3, 3, conv.inputs, conv.outputs)
        shapes[f"{conv.name}.bias"] = (conv.outputs,)
    return shapes
