"""What a picture was made from: settings and images, by name."""

from typing import Any

Provenance = dict[str, Any]  # JSON values


_MOST = 3  # differences that are named


def difference(had: Provenance, has: Provenance) -> str:
    """Describe the differences, as in "another style image and steps 100, not 50"; "" if none.

    A value of None in `has` is unknown and makes no difference.
    """
    names = had.keys() | has.keys()
    found = [name for name in names if had.get(name) != has.get(name, "") is not None]
    found.sort(key=lambda name: (not name.endswith("image"), name))
    texts = [_one(name, had, has) for name in found[:_MOST]]
    others = [f"{len(found) - _MOST} more"] if len(found) > _MOST else []
    return " and ".join([*texts, *others])


def _one(name: str, had: Provenance, has: Provenance) -> str:
    if name.endswith("image") or name == "weights":
        return f"another {name}" if had.get(name) else f"no {name}"
    old, new = (_text(each.get(name, "unknown")) for each in (had, has))
    return f"{name.replace('_', '-')} {old}, not {new}"


def _text(value: Any) -> str:
    match value:
        case dict():
            return ",".join(f"{name}:{weight}" for name, weight in value.items())
        case list():
            return ",".join(map(str, value))
        case _:
            return f"{value:.15g}" if isinstance(value, float) else str(value)
