"""The mean activations of a network, measured on pictures that come with the package."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nst_jax.io.images import load_image
from nst_jax.network.activations import Activations
from nst_jax.network.vgg import VGG, FrozenParam, recast

# The pictures of the project's folder png/, each 192 x 144 px, one below the other.
PICTURES, HEIGHT = Path(__file__).with_name("pictures.jpg"), 144


def mean_activations(network: VGG) -> Float[Array, " layers"]:
    """Measure the mean activation after each ReLU of a network, zeros included.

    It is the mean over five small pictures. The network takes the maximum in its poolings here,
    whatever it does otherwise.

    Args:
      network: stays as it is.
    """
    image = jnp.asarray(load_image(PICTURES))
    pictures = image.reshape(-1, HEIGHT, *image.shape[1:])
    plain = recast(network, pooling="max", pool_scale=1.0, conv="direct", dtype=jnp.float32)
    means: Float[Array, " layers"] = _means(plain, pictures)
    return means


@jax.jit
def _means(network: VGG, pictures: Float[Array, "n h w 3"]) -> Float[Array, " layers"]:
    names = [row.relu for row, _ in zip(network.architecture.convs, network.convs, strict=False)]
    return jnp.stack([jnp.mean(maps) for maps in network(pictures, names).values()])


def with_means(network: VGG, means: Sequence[float] | None, scale: Activations) -> VGG:
    """Return the network with its mean activations, if they are known or the scale needs them.

    Args:
      network: stays as it is.
      means: what `mean_activations` has found for it or for one that goes deeper; None: not known,
        so it is measured, unless the scale is its own.
      scale: that `match_activations` will be asked for.
    """
    if means is None and scale == "own":
        return network
    found = recast(network)
    known = mean_activations(network) if means is None else means[: len(network.convs)]
    found.means = FrozenParam(jnp.asarray(known, jnp.float32))
    return found
