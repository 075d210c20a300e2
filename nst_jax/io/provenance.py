"""What a picture was made from (settings and images), as a note in the picture's file."""

import json
from pathlib import Path
from typing import Any

from nst_jax.io.images import image_note

Provenance = dict[str, Any]  # JSON values


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


def difference(had: Provenance, has: Provenance) -> str:
    """Describe the first difference, as in "steps 100, not 50"; "" if there is none.

    A value of None in `has` is unknown and makes no difference.
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
