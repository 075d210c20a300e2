"""What makes a picture this one: the settings, the weights and the images that it is made from."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from nst_jax.config import Config, format_setting
from nst_jax.io.provenance import Provenance
from nst_jax.weights.converted_file import Weights


def provenance(asked: Config, *, weights: Weights | None, **others: Any) -> Provenance:
    """Write down what a picture is made from, beside the images.

    Args:
      asked: the settings as they were asked for. What "auto" becomes depends on the machine, and
        does not make another picture.
      weights: those of the network; None: not known, nor which network it will be.
      others: what else makes the picture, by name; in place of a setting of that name.
    """
    made_from: Provenance = {
        name: format_setting(value) for name, value in dataclasses.asdict(asked).items()
    }
    # The network is that of the weights: "auto" may find another one than was asked for.
    made_from["network"] = weights and weights.network
    made_from["weights"] = weights and weights.digest(asked.taps[-1])
    return made_from | others


def of_images(
    content: str, styles: Sequence[str], start: str | None, *, digest: Callable[[str], str]
) -> Provenance:
    """Write down the images that a picture is made from.

    Args:
      content: its file.
      styles: their files.
      start: the file of the first picture, if there is one.
      digest: takes a file to the digest of its bytes.
    """
    files = {"content": [content], "style": styles, "start": [start] if start else []}
    return {f"{role} image": [digest(path) for path in paths] for role, paths in files.items()}
