"""A configuration from a preset or a user's file, with what the command line sets over it.

Presets are YAML files in ``pipeline/presets``; a user's file may start from one with ``preset:``.
"""

import functools
import ipaddress
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from pipeline.config.sections import RuntimeConfig
from pipeline.config.whole import Config
from pipeline.errors import ConfigError, nearest
from pipeline.installation import SHIPPED
from pipeline.yamls import first_problem, read_yaml

PRESETS = Path(__file__).resolve().parent.parent / "presets"
DEFAULT = "paper-l14"
"""The preset where none is named."""

ENDINGS = (".yaml", ".yml")
"""What names a file instead of a preset ends in."""

MODELS = {"captioner.model", "llm.model", "clip.model"}
"""What a preset's ``note`` is about."""

CONSENT = {
    "api_key_variable": "--set runtime.api_key_variable=NAME",
    "milvus_token_variable": "--set runtime.milvus_token_variable=NAME",
    "follow_links": "--follow-links",
    "allow_pickle": "--allow-pickle",
}
"""Fields of ``runtime`` that a file may not set, with the options that do: they give away what is
in the environment, or open what can do harm."""
SECRETS = {
    "api_key_variable": ("captioner.url", "llm.url", "verifier.url", "clip.url"),
    "milvus_token_variable": ("runtime.milvus_url",),
}
"""The environment's secrets, and the fields that say where they are sent."""


def presets() -> list[str]:
    """Return the names of the presets."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def load(name: str, overrides: dict[str, Any] | None = None) -> Config:
    """Load a preset by name or a YAML file by path, then apply ``overrides`` (dotted keys).

    Raises ConfigError naming the file or the option, and the field that is wrong, or the nearest
    preset's name; also for a file that asks for what only an override may (``_check_consent``).

    >>> import seize
    >>> config = seize.configure("demo", {"search.method": "pdv", "search.pdv.blend": 0.5})
    >>> config.search.method
    'pdv'
    """
    content, file = _read(name)
    overrides = overrides or {}
    for key, value in overrides.items():
        _set(content, key, value)
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        wrong = _is_given(place, overrides)
        source = "An option sets a field to what it cannot be" if wrong else file
        raise ConfigError(f"{source}: {first_problem(error)}") from None
    if overrides.keys() >= MODELS:  # the note was about others
        config.note = ""
    if file.resolve().parent != PRESETS:
        _check_consent(config, overrides, file)
    return _resolve(config)


def _check_consent(config: Config, overrides: dict[str, Any], file: Path) -> None:
    """Raise ConfigError where a file of settings, which may come from others, oversteps.

    It may set none of ``CONSENT``. What a variable of ``SECRETS`` holds is sent to this machine
    alone, unless the variable or the URL is an override, as the user's own options are.
    """

    given = functools.partial(_is_given, overrides=overrides)
    for name, option in CONSENT.items():
        allowed = RuntimeConfig.model_fields[name].default
        if getattr(config.runtime, name) != allowed and not given(f"runtime.{name}"):
            raise ConfigError(
                f"{file}: runtime.{name} is nothing that a file may set, since files come from "
                f"others, too. If you want it, give {option} on the command line."
            )
    for name, fields in SECRETS.items():
        variable = getattr(config.runtime, name)
        if given(f"runtime.{name}") or not os.environ.get(variable):
            continue
        named = [f"encoders.{encoder}.url" for encoder in config.encoders]
        for field in (*fields, *(named if "clip.url" in fields else ())):
            urls: Any = config
            for part in field.split("."):
                urls = urls[part] if isinstance(urls, dict) else getattr(urls, part)
            listed = [urls] if isinstance(urls, str) else urls or []
            if any(map(_away, listed)) and not given(field):
                raise ConfigError(
                    f"{file}: {field} is not on this machine, and would be sent what {variable} "
                    f"holds. If that is right, add --set runtime.{name}={variable}; else unset it."
                )


def check_stays_here(config: Config, overrides: dict[str, Any], file: Path) -> None:
    """Raise ConfigError where a file that was found, not named, would send anything elsewhere.

    Every address it gives must be on this machine, unless an override gives it too.
    """
    for name, section in config:
        for key, value in section if isinstance(section, BaseModel) else ():
            if key != "url" and not key.endswith("_url"):
                continue
            listed = [value] if isinstance(value, str) else value or []
            if any(map(_away, listed)) and not _is_given(f"{name}.{key}", overrides):
                raise ConfigError(
                    f"{file}, which lies with the pictures, would send them to another machine "
                    f"({name}.{key}). If that is right, name it: --config {file}"
                )


def _is_given(place: str, overrides: dict[str, Any]) -> bool:
    return any(f"{place}.".startswith(f"{key}.") for key in overrides)


def _away(url: str) -> bool:
    """Whether a URL leads to another machine, as far as its text tells."""
    try:
        host = urlsplit(url).hostname or ""
        return host != "localhost" and not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def _read(name: str) -> tuple[dict[str, Any], Path]:
    file = Path(name)
    if file.suffix not in ENDINGS:
        if name not in presets():
            raise ConfigError(f"There is no preset {name!r}.{nearest(name, presets())}")
        file = PRESETS / f"{name}.yaml"
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold settings as `key: value`.")
    base = content.pop("preset", None)
    if base is None:
        return content, file
    if Path(str(base)).suffix:
        raise ConfigError(f"{file}: preset: must be one of {', '.join(presets())}.")
    return _merge(_read(str(base))[0], content), file


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {key}: {parent} is not a section.")
    content[last] = value


def _resolve(config: Config) -> Config:
    """Make the paths of shipped models work from any folder."""
    for section in (config.captioner, config.llm, config.verifier):
        section.model = shipped(section.model)
    if config.synthesize.model is not None:
        config.synthesize.model = shipped(config.synthesize.model)
    for encoder in (config.clip, *config.encoders.values()):
        encoder.model = shipped(encoder.model)
    return config


def shipped(model: str) -> str:
    """Return where a shipped model's path leads from this folder; any other name as it is."""
    kind, colon, place = model.rpartition(":")
    inside = SHIPPED / place
    # False for names that no file can have, too.
    found = "/" in place and not os.path.exists(place) and os.path.exists(inside)
    return f"{kind}{colon}{inside}" if found else model
