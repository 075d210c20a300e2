"""Networks whose feature maps have the scale of another network.

A loss without a divisor of its own depends on this scale: if all maps grow by k, a content term
grows by k² and a Gram term by k⁴. The constants of a program therefore belong to its network. With
the scale of that network they balance, whatever the weights.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from nst_jax.errors import InputError
from nst_jax.network.vgg import VGG, FrozenConv, FrozenParam, recast

Activations = Literal["own", "normalized", "caffe"]

# Mean activation after each ReLU of VGG-19, zeros included, with max pooling.
# Of the normalized network, on the pictures of `weights.activations`; over photographs it is 1.
NORMALIZED_ON_PICTURES: Mapping[str, float] = MappingProxyType(
    {
        **{"relu1_1": 1.5075, "relu1_2": 1.5353, "relu2_1": 1.7061, "relu2_2": 1.8525},
        **{"relu3_1": 1.8277, "relu3_2": 1.8502, "relu3_3": 1.8013, "relu3_4": 1.9297},
        **{"relu4_1": 1.6890, "relu4_2": 1.6666, "relu4_3": 1.6918, "relu4_4": 1.8372},
        **{"relu5_1": 1.6261, "relu5_2": 1.6298, "relu5_3": 1.4446, "relu5_4": 1.5500},
    }
)
# Over photographs: what the maps of the normalized network are multiplied by.
OVER_PHOTOGRAPHS: Mapping[Activations, Mapping[str, float]] = MappingProxyType(
    {
        "normalized": MappingProxyType(dict.fromkeys(NORMALIZED_ON_PICTURES, 1.0)),
        # The conv1_1 of the published weights tells the first to four digits. The others follow
        # from layer weights that were published for them, to 0.3 % up to relu3_4 and to 1 or 2 %
        # behind; jcjohnson/neural-style's log agrees (tests/weights/test_activations.py).
        "caffe": MappingProxyType(
            {
                **{"relu1_1": 21.912, "relu1_2": 97.2, "relu2_1": 112.9, "relu2_2": 99.6},
                **{"relu3_1": 111.5, "relu3_2": 141.8, "relu3_3": 295.0, "relu3_4": 425.0},
                **{"relu4_1": 444.0, "relu4_2": 284.4, "relu4_3": 149.0, "relu4_4": 36.5},
                **{"relu5_1": 40.65, "relu5_2": 16.6, "relu5_3": 6.78, "relu5_4": 0.743},
            }
        ),
    }
)


def match_activations(network: VGG, scale: Activations) -> VGG:
    """Return a network whose feature maps have the scale that a program's constants are for.

    Each map is multiplied by a number, the same before and after its ReLU: the mean activation of
    the program's network over that of this one. The factors go into the parameters, as VGG's maps
    are proportional to these, so an evaluation takes no more time.

    Args:
      network: stays as it is. It must know its mean activations (the attribute means). One from
        `load_vgg19` or `load_vgg16` does if its file has them, or the config asks for a scale.
      scale: "own": that of the network as it is. "normalized": a mean activation of 1 after each
        ReLU over photographs, as in leongatys/PytorchNeuralStyleTransfer. "caffe": that of the
        weights that Simonyan and Zisserman published for Caffe, as in jcjohnson/neural-style.

    Raises:
      InputError: if the network does not know its mean activations, or a layer has none.
    """
    if scale == "own":
        return network
    if network.means is None:
        raise InputError(
            f"activations is {scale}, but the network's own mean activations are not known; load "
            "it with load_vgg19(config=config) or load_vgg16(config=config), or give it "
            "network.means = FrozenParam(mean_activations(network))"
        )
    own, matched, before = np.asarray(network.means[...], np.float64), recast(network), 1.0
    rows = network.architecture.convs[: len(own)]
    wanted = [OVER_PHOTOGRAPHS[scale][row.relu] * NORMALIZED_ON_PICTURES[row.relu] for row in rows]
    for row, layer, mean, goal in zip(rows, matched.convs, own, wanted, strict=True):
        if not 0 < mean < np.inf:
            raise InputError(
                f"the mean activation of {row.relu} is {mean}, which no factor makes that of a "
                "trained network; leave activations at own"
            )
        factor = goal / mean
        scale_layer(layer, kernel=factor / before, bias=factor)
        before = factor
    matched.means = FrozenParam(jnp.asarray(wanted, network.means.dtype))
    return matched


def scale_layer(layer: FrozenConv, *, kernel: float, bias: float) -> None:
    """Multiply the parameters of a convolution, the kernel in all its forms, in new variables."""

    def times(param: FrozenParam[Array], factor: float) -> FrozenParam[Array]:
        return FrozenParam(param[...] * jnp.asarray(factor, param.dtype))

    layer.kernel, layer.bias = times(layer.kernel, kernel), times(layer.bias, bias)
    if layer.turned is not None:
        layer.turned = times(layer.turned, kernel)
    if layer.transformed is not None:
        layer.transformed = nnx.List(times(form, kernel) for form in layer.transformed)
