"""Load and build the network of a run, and warn of unexpected weights."""

from nst_jax.cli.flags import load_weights
from nst_jax.cli.options import JobOptions
from nst_jax.cli.output import warn_from_first
from nst_jax.config import ResolvedConfig
from nst_jax.distributed.collectives import allgather_json
from nst_jax.errors import InputError
from nst_jax.network.vgg import VGG
from nst_jax.presets import PRESETS
from nst_jax.scale.step import build_network
from nst_jax.weights.activations import with_means
from nst_jax.weights.converted_file import CONVERT_COMMAND, Weights


def run_weights(options: JobOptions, config: ResolvedConfig) -> tuple[Weights, ResolvedConfig]:
    """Load the weights of a run; return them, and the settings with their network.

    Raises:
      InputError: if `load_weights` does, or several processes have found different networks.
    """
    weights, config = load_weights(
        options.weights,
        config,
        given=options.settings,
        taps=config.taps,
        quiet=options.quiet,
        warn=warn_from_first,
    )
    found = allgather_json("network", f"{weights.title}{'' if weights.trained else ', untrained'}")
    if len(set(found)) > 1:
        raise InputError(
            f"the processes have found different networks: {'; '.join(found)}; give all of them "
            "the same --weights"
        )
    return weights, config


def network_of(weights: Weights, config: ResolvedConfig) -> VGG:
    """Build the network of a run up to its deepest tap, with what the run asks of it."""
    network = build_network(weights.params, config, deepest=config.taps[-1])
    return with_means(network, weights.means, config.activations)


def warn_of_network(weights: Weights, preset: str) -> None:
    """Warn, in the first process, if the network is untrained, or not that of the preset."""
    if not weights.trained:
        why = weights.reason or "an untrained network was asked for"
        warn_from_first(
            f"WARNING: THE NETWORK IS NOT TRAINED ({weights.origin}), so this is not the picture "
            f"that trained weights give. Why: {why}. To get them: {CONVERT_COMMAND}"
        )
    elif preset == "pytorch" and weights.network != PRESETS[preset].network:
        warn_from_first(
            f"WARNING: {weights.title} paints, but the preset pytorch is a program with VGG-19, so "
            "neither the losses nor the picture are those of that program"
        )
