"""Settings in a TOML file: a preset, and each setting under the name of its flag."""

import argparse
import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import tomli_w

from nst_jax.config import Config, SettingError, checked
from nst_jax.errors import InputError
from nst_jax.io.files import atomic_write, check_writable, read_text
from nst_jax.presets import PRESETS

_SETTINGS: Mapping[str, "dataclasses.Field[Any]"] = MappingProxyType(
    {setting.name.replace("_", "-"): setting for setting in dataclasses.fields(Config)}
)
# Bytes of a file; all settings have 3 kB, and tomllib takes minutes for a long row of dots.
_MOST = 2**15


class SettingsFile(NamedTuple):
    """The settings that a file gives.

    Attributes:
      preset: the name of the preset, if the file names one.
      settings: settings by name; they override those of the preset.
    """

    preset: str | None
    settings: Mapping[str, Any]


def settings_text(preset: str, settings: Mapping[str, Any]) -> str:
    """Return the text of a settings file.

    Args:
      preset: the name of the preset.
      settings: values of JSON by the names of settings.
    """
    flags = {name.replace("_", "-"): value for name, value in settings.items()}
    return tomli_w.dumps({"preset": preset} | flags)


def save_settings(path: str, preset: str, settings: Mapping[str, Any]) -> None:
    """Write settings to a file for --config; all or nothing.

    Args:
      path: the file.
      preset: see `settings_text`.
      settings: see `settings_text`.

    Raises:
      InputError: if the file cannot be written.
    """
    check_writable(path, what="the settings file")
    with atomic_write(path) as temporary:
        temporary.write_text(settings_text(preset, settings))


def settings_flag(path: str) -> SettingsFile:
    """Return the settings in a file; the type of --config.

    Raises:
      argparse.ArgumentTypeError: if the file cannot be read, is not TOML, has a key that is no
        setting, or a value that its setting does not allow.
    """
    try:
        given = tomllib.loads(read_text(Path(path).expanduser(), most=_MOST))
        return check_settings(given)
    except OSError as error:
        fault = error.strerror
    except (SettingError, InputError) as error:
        fault = error.in_flags.removeprefix("--") if isinstance(error, SettingError) else str(error)
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or nested without end
        fault = f"it is not TOML: {error}"
    raise argparse.ArgumentTypeError(f"{path}: {fault}")


def check_settings(given: Mapping[str, Any]) -> SettingsFile:
    """Return the settings of a file, or of a manifest, in their plain form.

    Args:
      given: values by the names of settings or of their flags; and the preset's name, perhaps.

    Raises:
      InputError: if a name is no setting, or a value is not allowed.
    """
    settings: dict[str, Any] = {}
    preset = given.get("preset")
    if preset is not None and not (isinstance(preset, str) and preset in PRESETS):
        raise InputError(f"preset is {preset!r}; allowed are {', '.join(PRESETS)}")
    for key, value in given.items():
        if key == "preset":
            continue
        setting = _SETTINGS.get(key.replace("_", "-"))
        if setting is None:
            near = difflib.get_close_matches(key, ["preset", *_SETTINGS], n=1)
            near = ['size = "12MP"'] if key == "megapixels" else near
            advice = f"did you mean {near[0]}?" if near else "--save-config writes all there are"
            raise InputError(f"{key} is no setting; {advice}")
        settings[setting.name] = checked(setting, value)
    return SettingsFile(preset, settings)
