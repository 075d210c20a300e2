"""The work of one step by direct convolution: floating-point operations and bytes moved.

One step: features to relu5_1, five content and five style terms, the gradient with respect to the
image, Adam. By this count an algorithm with fewer multiplications, such as Winograd's, may exceed
the machine's rate.
"""

from collections.abc import Iterator
from typing import NamedTuple

from nst_jax.network.architecture import ARCHITECTURES, Conv, NetworkName

NETWORK: NetworkName = "vgg19"
# The preset's layers: the first of each block, content and style alike.
DEEPEST = "conv5_1"


class Layer(NamedTuple):
    """A convolution and the size of its maps."""

    conv: Conv
    height: int
    width: int

    @property
    def positions(self) -> int:
        """Pixels of one channel."""
        return self.height * self.width

    @property
    def is_tap(self) -> bool:
        """Whether the losses compare its map."""
        return self.conv.index == 1


def layers(height: int, width: int) -> Iterator[Layer]:
    """Yield a step's convolutions for an image of this size; pooling rounds odd sizes down."""
    for conv in ARCHITECTURES[NETWORK].convs:
        if conv.pooled:
            height, width = height // 2, width // 2
        yield Layer(conv, height, width)
        if conv.name == DEEPEST:
            return


def conv_flops(height: int, width: int) -> int:
    """Count a multiplication and an addition for each product, forward and for the input gradient.

    The products with padded zeros count too.
    """
    return sum(
        2 * 2 * 9 * layer.conv.inputs * layer.conv.outputs * layer.positions
        for layer in layers(height, width)
    )


def gram_flops(height: int, width: int) -> int:
    """Count F Fᵀ, and the one product with the symmetric difference in its gradient."""
    return sum(
        2 * 2 * layer.conv.outputs**2 * layer.positions
        for layer in layers(height, width)
        if layer.is_tap
    )


def step_flops(height: int, width: int) -> int:
    """Count the operations of a step, without elementwise ones."""
    return conv_flops(height, width) + gram_flops(height, width)


def step_bytes(height: int, width: int, itemsize: int) -> int:
    """Count the bytes of a step if each operation reads its arrays and writes its result once.

    Biases, ReLUs and their gradients are part of the convolution before them. The gradients of the
    losses are part of the gradient that they are added to. The picture and Adam's averages are
    float32.
    """
    elements = 0
    for layer in layers(height, width):
        conv, positions = layer.conv, layer.positions
        inputs, outputs = conv.inputs * positions, conv.outputs * positions
        kernel = 9 * conv.inputs * conv.outputs
        elements += inputs + kernel + outputs  # forward
        elements += 2 * outputs + kernel + inputs  # gradient, where the map is above zero
        if conv.pooled:
            elements += 2 * (4 * inputs + inputs)  # the pooling before it, and its gradient
        if layer.is_tap:
            elements += 2 * outputs + 3 * outputs  # map and target, again for the gradient
    picture = 3 * height * width
    return elements * itemsize + 4 * 7 * picture
