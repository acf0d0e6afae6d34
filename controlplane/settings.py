"""The sections of the operator's settings file that concern the control plane. The webhook mounts the same file."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from controlplane.bootstrap import Bootstrap
from controlplane.choices import ControlPlane, Sidecar

MAX_BYTES = 1 << 20  # a ConfigMap holds no more


class SettingsError(Exception):
    """The settings file cannot be used; the message has one problem per line."""


@dataclass(frozen=True)
class Settings:
    """What a file without these sections comes to is what stands here."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", alias_generator=to_camel)

    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    controlplane: ControlPlane = field(default_factory=ControlPlane)
    sidecar: Sidecar = field(default_factory=Sidecar)


def read(path: Path) -> Settings:
    """Our sections of the file; its others are not looked at.

    Raises SettingsError with every problem: its path, the value, what is allowed.
    """
    settings = _load(path)
    if not isinstance(settings, Mapping):
        raise SettingsError(f"{path}: is no mapping; write at least one section, such as `bootstrap:`")
    try:
        sections = {key: value for key, value in settings.items() if key in ("bootstrap", "controlplane")}
        return TypeAdapter(Settings).validate_python({**sections, **_upstreams(settings.get("sidecar"))})
    except ValidationError as error:
        raise SettingsError("\n".join(f"{path}: {_describe(problem)}" for problem in error.errors())) from None


def _upstreams(section: object) -> dict[str, Any]:
    """Of the sidecar's section, the one setting that is ours as well."""
    if isinstance(section, Mapping) and "upstreams" in section:
        return {"sidecar": {"upstreams": section["upstreams"]}}
    return {}


def _load(path: Path) -> object:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise SettingsError(f"{path}: larger than {MAX_BYTES} bytes")
        return yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None


def _describe(problem: Mapping[str, Any]) -> str:
    where = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        section = ControlPlane if problem["loc"][0] == "controlplane" else Bootstrap
        known = ", ".join(to_camel(name) for name in section.__dataclass_fields__)
        return f"{where}: no such setting; there are {known}"
    return f"{where}: {reprlib.repr(problem['input'])}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
