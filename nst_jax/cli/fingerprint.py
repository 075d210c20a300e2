"""The provenance of a picture: the settings, the weights and the images that it is made from."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from nst_jax.config import Config, format_setting
from nst_jax.io.provenance import Provenance
from nst_jax.weights.converted_file import Weights


def provenance(asked: Config, *, weights: Weights | None, **others: Any) -> Provenance:
    """Return the provenance of a picture, without its images.

    Args:
      asked: the settings before `Config.resolve`: the value of "auto" depends on the machine, and
        does not make another picture.
      weights: the network's weights; None: the weights and the network are not known yet.
      others: further entries by name; they replace settings of the same name.
    """
    made_from: Provenance = {
        name: format_setting(value) for name, value in dataclasses.asdict(asked).items()
    }
    # With --weights=auto the network may be another than the setting's.
    made_from["network"] = weights and weights.network
    made_from["weights"] = weights and weights.digest(asked.taps[-1])
    return made_from | others


def of_images(
    content: str, styles: Sequence[str], start: str | None, *, digest: Callable[[str], str]
) -> Provenance:
    """Return the digests of the images that a picture is made from.

    Args:
      content: path of the content image.
      styles: paths of the style images.
      start: path of the first picture, if one was given.
      digest: returns the digest of a file's bytes.
    """
    files = {"content": [content], "style": styles, "start": [start] if start else []}
    return {f"{role} image": [digest(path) for path in paths] for role, paths in files.items()}
