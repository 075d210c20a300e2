"""What a picture was made from: settings and images, by name."""

from typing import Any

Provenance = dict[str, Any]  # JSON values


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
        old, new = (_text(each.get(name, "unknown")) for each in (had, has))
        text = f"{name.replace('_', '-')} {old}, not {new}"
    return text + (", and more" if others else "")


def _text(value: Any) -> str:
    match value:
        case dict():
            return ",".join(f"{name}:{weight}" for name, weight in value.items())
        case list():
            return ",".join(map(str, value))
        case _:
            return f"{value:.15g}" if isinstance(value, float) else str(value)
