"""The control plane's commands. So far one: `python -m controlplane bootstrap` prints a namespace's ConfigMap."""

import argparse
import os
import re
import reprlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from controlplane.bootstrap import Bootstrap, config_map

MAX_BYTES = 1 << 20  # a ConfigMap holds no more
EXAMPLE = """example:
  python -m controlplane bootstrap --namespace shop | kubectl apply -f -
"""


class SettingsError(Exception):
    """The settings file cannot be used; the message has one problem per line."""


@dataclass(frozen=True)
class _Section:
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", alias_generator=to_camel)

    bootstrap: Bootstrap = field(default_factory=Bootstrap)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, or 2 for settings that cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        bootstrap = read_settings(options.settings) if options.settings else Bootstrap()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        print(yaml.dump(config_map(bootstrap, options.namespace), Dumper=_Dumper, sort_keys=False), end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left for Python to flush at exit
        print(f"controlplane: cannot write the output: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def read_settings(path: Path) -> Bootstrap:
    """The `bootstrap:` section of the file that the webhook mounts as well; its other sections are not looked at.

    Raises SettingsError with every problem: its path, the value, what is allowed.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise SettingsError(f"{path}: larger than {MAX_BYTES} bytes")
        settings = yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, Mapping):
        raise SettingsError(f"{path}: is no mapping; write at least one section, such as `bootstrap:`")
    try:
        section = {key: value for key, value in settings.items() if key == "bootstrap"}
        return TypeAdapter(_Section).validate_python(section).bootstrap
    except ValidationError as error:
        raise SettingsError("\n".join(f"{path}: {_describe(problem)}" for problem in error.errors())) from None


def _describe(problem: Mapping[str, Any]) -> str:
    where = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        known = ", ".join(to_camel(name) for name in Bootstrap.__dataclass_fields__)
        return f"{where}: no such setting; there are {known}"
    return f"{where}: {reprlib.repr(problem['input'])}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m controlplane", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    bootstrap = commands.add_parser(
        "bootstrap",
        help="print the Envoy bootstrap ConfigMap of a namespace as YAML",
        description="Prints the immutable ConfigMap that the sidecars of a namespace read their bootstrap from.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bootstrap.add_argument("--namespace", required=True, type=_namespace, help="where it goes: a DNS label")
    bootstrap.add_argument("--settings", type=Path, metavar="FILE", help="the settings file of the webhook")
    return parser


def _namespace(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no namespace: at most 63 of a-z, 0-9 and -, no - at either end")
    return text


class _Dumper(yaml.SafeDumper):
    """Writes the files as blocks, so that a person can read them."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


if __name__ == "__main__":
    sys.exit(main())
