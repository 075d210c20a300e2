"""What a picture is made from, as a note in its file: written, read and compared."""

import json
from pathlib import Path
from typing import Any

from nst_jax.io.images import image_note

Provenance = dict[str, Any]  # as JSON has it


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
