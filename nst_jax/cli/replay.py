"""Make a picture again by its manifest."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nst_jax.cli.inputs import expand
from nst_jax.cli.manifest import (
    MASK_ROLES,
    ROLES,
    Manifest,
    plain_text,
    read_manifest,
    settings_of,
    versions,
)
from nst_jax.cli.options import FORM, JobOptions
from nst_jax.cli.output import warn_from_first
from nst_jax.cli.settings_file import check_settings
from nst_jax.config import checked_live, flag_of
from nst_jax.errors import InputError
from nst_jax.io.arrays import rounded
from nst_jax.io.images import load_image
from nst_jax.weights.converted_file import Weights
from nst_jax.weights.download import sha256_of

# The options that a replay does not take from the picture.
_FREE = (
    *("replay", "inputs", "output", "weights", "devices", "dry_run", "quiet"),
    *("checkpoint", "checkpoint_seconds", "manifest", "json", "log", "report"),
    *("sheet", "timelapse"),
    *FORM,
)


def replayed(options: JobOptions) -> JobOptions:
    """Return the options that make the picture of --replay again.

    Raises:
      InputError: if the picture has no manifest or is of a film, its settings are not those
        of this version, an image is not found, or another option contradicts the picture.
    """
    picture = Path(options.replay or "")
    manifest = read_manifest(picture)
    _check_alone(options)
    made_from = manifest["made from"]
    if made_from.get("sequence"):
        raise InputError(
            f"{picture} is of a film, whose frames begin with those before them; allowed are "
            "pictures that were painted without --sequence"
        )
    try:
        settings = check_settings({"preset": manifest["preset"], **settings_of(manifest)})
    except InputError as error:
        raise InputError(f"{picture} has settings that this version lacks: {error}") from None
    for _, numbers in manifest.get("adjusted", ()):
        checked_live(numbers)
    images = _find(made_from, picture, options.inputs)
    if other := _other_versions(manifest):
        warn_from_first(f"{picture} was painted with {plain_text(other)}: pixels may differ")
    return dataclasses.replace(
        options,
        content=images["content"],
        style=images["style"],
        start_image=next(iter(images["start"]), None),
        content_mask=images["content mask"],
        style_mask=images["style mask"],
        style_strength=next(iter(images["style strength"]), None),
        protect=next(iter(images["protect"]), None),
        preset=settings.preset or "default",
        config=settings,
        devices=options.devices or manifest["devices"],
        output=options.output or _output_of(picture),
        background=made_from.get("background", "white"),
        manifest_of=manifest,
    )


def _other_versions(manifest: Manifest) -> str:
    there = manifest["versions"]
    other = {name: x for name, x in versions().items() if there.get(name) != x}
    return "; ".join(f"{name} {there.get(name)}, here {x}" for name, x in other.items())


def _output_of(picture: Path) -> str:
    made = Path(picture.stem) if picture.suffix.lower() == ".json" else picture
    return f"{made.stem}_replay{made.suffix}"


def _check_alone(options: JobOptions) -> None:
    """Raise InputError if an option is given that a replay takes from the picture."""
    given = [
        field.name
        for field in dataclasses.fields(options)
        if field.metadata
        and field.name not in _FREE
        and getattr(options, field.name) != field.default
    ]
    for name in [*given, *options.settings]:
        raise InputError(
            f"--replay takes {flag_of(name)} from the picture; leave it out, or paint with "
            f"--config=FILE, where FILE is the output of --show"
        )


def _find(made_from: Manifest, picture: Path, inputs: Sequence[str]) -> dict[str, list[str]]:
    """Return the files of each role, found by the digests of their bytes.

    Raises:
      InputError: if an image is not found.
    """
    wanted = {role: made_from.get(f"{role} image", []) for role in (*ROLES, *MASK_ROLES)}
    left = {digest for digests in wanted.values() for digest in digests}
    found: dict[str, str] = {}
    looked = 0
    for path in _candidates(picture, inputs):
        if not left - found.keys():
            break
        looked += 1
        if not os.path.isfile(path):  # a pipe or a device may never end
            continue
        with contextlib.suppress(OSError):  # an unreadable file is not the one
            found.setdefault(sha256_of(Path(path)), path)
    for role, digests in wanted.items():
        for digest in digests:
            if digest not in found:
                raise InputError(
                    f"the {role} image of {picture} (SHA-256 {plain_text(digest[:12])}…) is none "
                    f"of the {looked} files that were looked at; name it, or its folder, after "
                    "--inputs"
                )
    return {role: [found[digest] for digest in digests] for role, digests in wanted.items()}


def _candidates(picture: Path, inputs: Sequence[str]) -> list[str]:
    if inputs:
        return expand(inputs, role="inputs", warn=lambda _: None)
    files: list[str] = []
    for folder in dict.fromkeys([str(picture.parent), "."]):
        with contextlib.suppress(InputError):  # a folder without images
            files += expand([folder], role="inputs", warn=lambda _: None)
    return files


def check_weights(manifest: Manifest, weights: Weights, deepest: str) -> None:
    """Raise InputError if the weights are not those of the picture that is replayed.

    Args:
      manifest: of the picture; empty if nothing is replayed.
      weights: the weights of the run.
      deepest: the deepest tap of the run.
    """
    if manifest and manifest["made from"]["weights"] != weights.digest(deepest):
        raise InputError(
            f"the picture was painted with other weights than {weights.title}, {weights.origin}; "
            "give its own as --weights"
        )


def comparison(picture: Path, output: Path) -> str:
    """Return in how far a replay is the picture that it replays."""
    if picture.suffix.lower() == ".json":
        return f"made as {picture} says"
    if output.read_bytes() == picture.read_bytes():
        return f"the same bytes as {picture}"
    before, now = (load_image(path) for path in (picture, output))
    if before.shape != now.shape:
        return f"another size than {picture}"
    levels = np.abs(rounded(now).astype(int) - rounded(before)).max(-1)
    if not levels.any():
        return f"the same pixels as {picture}"
    share, most = np.count_nonzero(levels) / levels.size, levels.max()
    return f"{100 * share:.2g} % of the pixels differ from {picture}, by {most} levels at most"
