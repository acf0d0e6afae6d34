"""The control plane's commands: `serve` is the process, `bootstrap` prints a namespace's ConfigMap."""

import argparse
import os
import re
import reprlib
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from controlplane.bootstrap import Bootstrap, config_map, render

MAX_BYTES = 1 << 20  # a ConfigMap holds no more
EXAMPLE = """example:
  python -m controlplane bootstrap --namespace shop | kubectl apply -f -
"""
HOME = "envoy-sidecar-system"
SERVE = """Keeps the bootstrap of these settings, and those that pods or a rollback may still name, in every namespace
that is labelled envoy-sidecar.io/inject=enabled, and says in the ConfigMap envoy-sidecar-published what is everywhere.
"""
SERVE_EXAMPLE = """example:
  python -m controlplane serve --settings settings.yaml --kubeconfig ~/.kube/config

exit codes:
  0  stopped by a signal
  2  wrong usage, unusable settings or credentials, or the port is taken
"""
RETENTION = "how long a bootstrap is kept that no pod names and no control plane has for its own (default: 30)"
PERIOD = "between two looks when nothing happens; a namespace that opts in is seen at once (default: 60)"


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
    code: int = options.run(bootstrap, options)
    return code


def _serve(bootstrap: Bootstrap, options: argparse.Namespace) -> int:
    # Kubernetes' package takes half a second to import, and only this needs it.
    from controlplane import kube, serving
    from controlplane.publisher import Publisher

    try:
        cluster = kube.Kube(kube.connect(options.kubeconfig))
        publisher = Publisher(cluster, options.namespace, render(bootstrap))
        metrics = serving.Metrics(publisher.current)
        service = serving.Service(publisher, timedelta(days=options.retention_days), options.period_seconds, metrics)
        server = serving.monitoring(options.metrics_address, options.metrics_port, service, metrics)
    except (kube.KubeError, OSError) as error:
        print(f"controlplane: {error}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    serving.log_to_stderr()
    threading.Thread(target=server.serve_forever, name="monitoring", daemon=True).start()
    service.run()
    return 0


def _print(bootstrap: Bootstrap, options: argparse.Namespace) -> int:
    if options.directory:
        return _write(bootstrap, options.directory)
    try:
        print(yaml.dump(config_map(bootstrap, options.namespace), Dumper=_Dumper, sort_keys=False), end="", flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left for Python to flush at exit
        print(f"controlplane: cannot write the output: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _write(bootstrap: Bootstrap, directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in render(bootstrap).items():
            (directory / name).write_text(text)
    except OSError as error:
        print(f"controlplane: {error.filename}: {error.strerror}", file=sys.stderr)
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
    where = bootstrap.add_mutually_exclusive_group(required=True)
    where.add_argument("--namespace", type=_namespace, help="where it goes: a DNS label")
    where.add_argument(
        "--directory", type=Path, metavar="DIR", help="write its files there, for `envoy --mode validate`"
    )
    serve = commands.add_parser(
        "serve",
        help="keep the bootstrap ConfigMaps in every opted-in namespace",
        description=SERVE,
        epilog=SERVE_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("--namespace", default=HOME, type=_namespace, help=f"where we are installed (default: {HOME})")
    serve.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server; not needed in a pod")
    serve.add_argument("--retention-days", type=_days, default=30, metavar="DAYS", help=RETENTION)
    serve.add_argument("--period-seconds", type=_seconds, default=60.0, metavar="SECONDS", help=PERIOD)
    serve.add_argument("--metrics-address", default="::", metavar="IP", help="for /metrics, /healthz and /readyz")
    serve.add_argument("--metrics-port", type=int, default=9090, metavar="PORT", help="the same (default: 9090)")
    for command, run in ((bootstrap, _print), (serve, _serve)):
        command.add_argument("--settings", type=Path, metavar="FILE", help="the settings file of the webhook")
        command.set_defaults(run=run)
    return parser


def _days(text: str) -> float:
    return _positive(text, "days")


def _seconds(text: str) -> float:
    return _positive(text, "seconds")


def _positive(text: str, unit: str) -> float:
    with suppress(ValueError):
        if 0 < (number := float(text)) < 1e6:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is no number of {unit}")


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
