"""The manifest of a picture: from what, by what and how far it was painted; in the picture's file.

A manifest names no path and no time, so that the same run writes the same bytes.
"""

import dataclasses
import json
import math
import operator
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard

import jax
import numpy as np

from nst_jax import __version__
from nst_jax.cli.options import FORM, MASKS
from nst_jax.cli.settings_file import check_settings, settings_text
from nst_jax.config import Config, plain_settings
from nst_jax.devices.backend import device_name
from nst_jax.errors import InputError, check_installed
from nst_jax.io.files import read_text, write_json
from nst_jax.io.images import image_note
from nst_jax.io.provenance import Provenance
from nst_jax.io.video import video_note
from nst_jax.losses.objective import Losses
from nst_jax.transfer.multiscale import Snapshot
from nst_jax.weights.converted_file import Weights
from nst_jax.weights.download import sha256_of

Manifest = Mapping[str, Any]  # JSON values
# The settings whose "auto", or "max", becomes a choice of the machine.
CHOSEN = ("size", "precision", "conv", "remat")
# From which step on numbers of the settings had other values, by name; see `stylize`.
Changes = Sequence[tuple[int, Mapping[str, float]]]
ROLES = ("content", "style", "start")  # of images
MASK_ROLES = tuple(name.replace("_", " ") for name in MASKS)  # only if they are given
# The type of each part that the program reads again.
_PARTS = {
    **dict.fromkeys(("made from", "chosen", "versions", "losses"), dict),
    **{"preset": str, "devices": int, "step": int},
}
_MOST = 2**24  # bytes of a manifest
_SPREAD = ("devices", "processes", "batch")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow")


def provenance(asked: Config, *, weights: Weights | None, **others: Any) -> Provenance:
    """Return the provenance of a picture, without its images.

    Args:
      asked: the settings before `Config.resolve`: the value of "auto" depends on the machine, and
        does not make another picture.
      weights: the network's weights; None: the weights and the network are not known yet.
      others: further entries by name; they replace settings of the same name.
    """
    made_from: Provenance = plain_settings(asked)
    # With --weights=auto the network may be another than the setting's.
    made_from["network"] = weights and weights.network
    made_from["weights"] = weights and weights.digest(asked.taps[-1])
    return made_from | others


def of_images(
    content: str | None,
    styles: Sequence[str],
    start: str | None,
    *,
    masks: Mapping[str, Sequence[str]] = MappingProxyType({}),
    digest: Callable[[str], str],
) -> Provenance:
    """Return the digests of the images that a picture is made from.

    Args:
      content: path of the content image; None: the picture is a texture.
      styles: paths of the style images.
      start: path of the first picture, if one was given.
      masks: paths of the masks, by their roles.
      digest: returns the digest of a file's bytes.
    """
    given = [content] if content else [], styles, [start] if start else []
    files = dict(zip(ROLES, given, strict=True))
    files |= {role: paths for role, paths in masks.items() if paths}
    return {f"{role} image": [digest(path) for path in paths] for role, paths in files.items()}


def digest_of(path: str) -> str:
    """Return the SHA-256 of an image's file.

    Raises:
      InputError: if it cannot be read: others may have removed it since it was named.
    """
    try:
        return sha256_of(Path(path))
    except OSError as error:
        raise InputError(
            f"cannot read {path!r}: {error.strerror}; give a readable image file"
        ) from error


def choices(config: Config) -> dict[str, Any]:
    """Return the values chosen for settings that may be "auto" or "max", by name."""
    return {name: value for name in CHOSEN if (value := getattr(config, name)) != "auto"}


def make_manifest(
    made_from: Provenance,
    last: Snapshot[Losses] | None,
    *,
    preset: str,
    config: Config,
    devices: int = 1,
    adjusted: Changes = (),
    member: int | None = None,
) -> Manifest:
    """Return the manifest of a picture.

    Args:
      made_from: the picture's provenance.
      last: the snapshot of the picture, or of its batch; None: it was made without steps.
      preset: the name of the preset.
      config: the settings of the run.
      devices: number of devices that the run is spread over.
      adjusted: the numbers that changed on the way.
      member: the picture's place in the batch, if it is one of a batch.
    """
    return {
        "made from": made_from,
        "preset": preset,
        "chosen": choices(config),
        "versions": versions(),
        "device": device_name(),
        "devices": devices,
        "processes": jax.process_count(),
        "batch": 0 if member is None or last is None else last.losses.total.shape[1],
        "step": last.step if last else 0,
        "adjusted": [[step, dict(numbers)] for step, numbers in adjusted],
        "losses": _of_last_step(last.losses, member) if last else {},
    }


def _of_last_step(losses: Losses, member: int | None) -> dict[str, Any]:
    """Return the losses of a picture before its last update; texts for nan and inf."""

    def plain(values: np.ndarray) -> float | str:
        value = float(values[-1] if member is None else values[-1, member])
        return value if math.isfinite(value) else str(value)

    return jax.tree.map(plain, losses)._asdict() if len(losses.total) else {}


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python and of the packages that compute."""
    own = {"nst_jax": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in _PACKAGES}


def note_of(manifest: Manifest, *, embed: bool) -> str:
    """Return the note for `save_image` to put into a picture's file; "" without --manifest."""
    return json.dumps(manifest) if embed else ""


def film_note(frames: Sequence[Path], contents: Sequence[str]) -> str:
    """Return the note of a film: the manifest of its last frame, for all; "" if that has none.

    Args:
      frames: the painted pictures.
      contents: the files that the film is made from.
    """
    try:
        manifest = dict(read_manifest(frames[-1]))
    except InputError:
        return ""
    images = [digest_of(path) for path in contents]
    made_from = {**manifest["made from"], "content image": images}
    return json.dumps({**manifest, "made from": made_from, "frames": len(frames)})


def save_beside(output: Path, manifest: Manifest) -> str:
    """Write the manifest beside the picture; return the fault, or an empty text."""
    try:
        write_json(f"{output}.json", manifest)
    except OSError as error:
        return f"cannot write {output}.json: {error.strerror}"
    return ""


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in a picture's file, or in a file of JSON beside it.

    Raises:
      InputError: if the file cannot be read, or has no manifest.
    """
    try:
        text = _text_of(path)
        found = json.loads(text or "{}")
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read the manifest of {path}: {error}") from None
    if not _is_manifest(found):
        raise InputError(
            f"{path} has no manifest; only pictures that this program has painted, without "
            "--no-manifest, have one"
        )
    return found


def _text_of(path: Path) -> str:
    match path.suffix.lower():
        case ".json":
            return read_text(path, most=_MOST)
        case ".mp4":
            check_installed(f"a manifest of {path}", "av", extra="film")
            return video_note(str(path))
        case _:
            return image_note(path)


def _is_manifest(found: Any) -> TypeGuard[Manifest]:
    """Return whether a value of JSON has the parts of a manifest; anyone may have written it."""
    if not isinstance(found, dict):
        return False
    if not all(isinstance(found.get(name), kind) for name, kind in _PARTS.items()):
        return False
    if not _are_changes(found.get("adjusted", [])):
        return False
    made_from = found["made from"]
    images = [made_from.get(f"{role} image") for role in ROLES]
    images += [made_from.get(f"{role} image", []) for role in MASK_ROLES]
    tables = [found["losses"], found["chosen"], found["versions"]]
    tables += [table for table in found["losses"].values() if isinstance(table, dict)]
    return all(isinstance(x, list) and all(isinstance(y, str) for y in x) for x in images) and all(
        isinstance(x, str | int | float | dict) for table in tables for x in table.values()
    )


def _are_changes(found: Any) -> bool:
    """Return whether a value of JSON has the form of `Changes`, in the order of the steps."""
    if not isinstance(found, list):
        return False
    for change in found:
        match change:
            case [int(step), dict(numbers)] if step >= 0:
                if not all(isinstance(x, int | float) for x in numbers.values()):
                    return False
            case _:
                return False
    return found == sorted(found, key=operator.itemgetter(0))


def numbers_at(changes: Changes, step: int) -> Mapping[str, float]:
    """Return the numbers that hold from a step on; see `stylize`."""
    return next((numbers for first, numbers in reversed(changes) if first <= step), {})


def settings_of(manifest: Manifest) -> dict[str, Any]:
    """Return the settings of a picture, as values of JSON by name."""
    made_from = manifest["made from"]
    names = [setting.name for setting in dataclasses.fields(Config)]
    # Without a network there is no setting of one.
    return {name: made_from[name] for name in names if made_from.get(name) is not None}


def facts_of(manifest: Manifest) -> list[tuple[str, str]]:
    """Return what a manifest says beside the settings, each fact with its name."""
    made_from = manifest["made from"]
    changes = [f"from step {step} on {_listed(x)}" for step, x in manifest.get("adjusted", [])]
    form = {name: made_from[name] for name in FORM if name in made_from}
    facts = [
        *((name, manifest.get(name)) for name in ("frames", "step", "device", *_SPREAD)),
        *((name, _listed(manifest.get(name, {}))) for name in ("chosen", "versions", "losses")),
        ("adjusted", "; ".join(changes)),
        ("file", _listed(form)),
        ("network", _network_text(made_from)),
        *(
            (f"{role} image", f"SHA-256 {digest}")
            for role in (*ROLES, *MASK_ROLES)
            for digest in made_from.get(f"{role} image", ())
        ),
    ]
    return [(name, plain_text(str(value))) for name, value in facts if value]


def _network_text(made_from: Mapping[str, Any]) -> str:
    weights = made_from.get("weights")
    return f"{made_from.get('network')}, SHA-256 {weights}" if weights else ""


def recipe_text(manifest: Manifest) -> str:
    """Return the settings of a picture as a file for --config.

    Raises:
      InputError: if the settings are not those of this version.
    """
    settings = settings_of(manifest)
    check_settings(settings)
    return settings_text(manifest["preset"], settings)


def manifest_text(manifest: Manifest) -> str:
    """Return a manifest for people: comments, then the settings as a file for --config.

    Raises:
      InputError: if the settings are not those of this version.
    """
    comments = [f"# {name:<14} {value}" for name, value in facts_of(manifest)]
    return "\n".join([*comments, recipe_text(manifest)])


def plain_text(text: str) -> str:
    """Return a text without line ends and control characters: anyone may have written it."""
    return "".join(x if x.isprintable() else "?" for x in text)


def _listed(values: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        if isinstance(value, dict):
            return f"({_listed(value)})"
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{name} {text(value)}" for name, value in values.items())


def read_provenance(path: Path) -> Provenance:
    """Return the provenance in a picture's file; an empty dict if there is none."""
    try:
        return dict(read_manifest(path)["made from"])
    except InputError:
        return {}
