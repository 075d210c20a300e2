"""What a picture is made from, in writing: kept with a result, and compared before it is used."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nst_jax.config import Config, format_setting
from nst_jax.images import image_note
from nst_jax.weights_file import Weights

Provenance = dict[str, Any]  # as JSON has it


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


def write_provenance(made_from: Provenance) -> str:
    """Return the note for `save_image` to put into a picture's file."""
    return json.dumps(made_from)


def read_provenance(path: Path) -> Provenance:
    """Return what a picture's file says that it was made from; nothing if it does not say."""
    try:
        made_from = json.loads(image_note(path) or "{}")
    except ValueError:
        return {}
    return made_from if isinstance(made_from, dict) else {}


def difference(had: Provenance, has: Provenance) -> str:
    """Say what one picture was made from where another is not, as "steps 100, not 50"; or nothing.

    A value of None in the second one is not known, and makes no difference.
    """
    names = had.keys() | has.keys()
    found = [name for name in names if had.get(name) != has.get(name, "") is not None]
    if not found:
        return ""
    name, *others = sorted(found, key=lambda name: (not name.endswith("image"), name))
    if name.endswith("image") or name == "weights":
        text = f"another {name}" if had.get(name) else f"no {name}"
    else:
        old, new = (each.get(name, "unknown") for each in (had, has))
        text = f"{name.replace('_', '-')} {old}, not {new}"
    return text + (", and more" if others else "")
