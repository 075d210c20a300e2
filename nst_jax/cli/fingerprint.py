"""The provenance of a picture: the settings, the weights and the images that it is made from."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nst_jax.config import Config, format_settings
from nst_jax.io.images import image_note
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
    made_from: Provenance = dict(format_settings(asked))
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


def write_provenance(made_from: Provenance) -> str:
    """Return the note for `save_image` to put into a picture's file."""
    return json.dumps(made_from)


def read_provenance(path: Path) -> Provenance:
    """Return the provenance in a picture's file; an empty dict if there is none."""
    try:
        made_from = json.loads(image_note(path) or "{}")
    except ValueError:
        return {}
    return made_from if isinstance(made_from, dict) else {}
