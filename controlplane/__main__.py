"""The control plane's commands: `serve` is the process; the others print what it would do, and why."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

import yaml

from controlplane.bootstrap import Bootstrap, config_map, render
from controlplane.settings import Settings, SettingsError, read
from controlplane.xds.mesh import Key

EXAMPLE = """example:
  python -m controlplane bootstrap --namespace shop | kubectl apply -f -
"""
HOME = "envoy-sidecar-system"
SERVE = """Tells proxies where Services are and how they want to be called. Keeps the bootstrap of these settings, and
those that pods or a rollback may still name, in every namespace that is labelled envoy-sidecar.io/inject=enabled, and
says in the ConfigMap envoy-sidecar-published what is everywhere.
"""
SERVE_EXAMPLE = """example:
  python -m controlplane serve --settings settings.yaml --kubeconfig ~/.kube/config
  python -m controlplane serve --from docs/examples/traffic.yaml

exit codes:
  0  stopped by a signal
  2  wrong usage, unusable settings or credentials, or the port is taken
"""
RENDER = "Prints the clusters, endpoints, listeners and routes of a pod's Envoy as JSON; what is wrong, to stderr."
EXPLAIN = "Says in words where a request of a pod would go, under which policy, and why."
CALLS = "instead: what it has called lately, by its sidecar's page :15090/stats/destinations, a file, or - for stdin"
FILE = "a file, a folder, or - for stdin, with the cluster's Services, EndpointSlices, Pods and Nodes, as YAML or JSON"
FROM = "no cluster: tell proxies on loopback what the manifests in that file or folder say, also when they change"
TLS = """holds tls.crt and tls.key; with them proxies are served, and without them, of a cluster, none is; with --from,
they also open addresses beyond loopback, and what a token says is believed"""
XDS = "where proxies are served (default: [::]:15012; with --from 127.0.0.1:15012)"
RETENTION = "how long a bootstrap is kept that no pod names and no control plane has for its own (default: 30)"
PERIOD = "between two looks when nothing happens; a namespace that opts in is seen at once (default: 60)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, or 2 for settings that cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        settings = read(options.settings) if options.settings else Settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    run: Callable[[Settings, argparse.Namespace], int] = options.run
    if run is _serve:
        return run(settings, options)
    try:
        code = run(settings, options)
        sys.stdout.flush()
    except OSError as error:  # its reader may have seen enough, as `head` has, or have no room
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left for Python to flush at exit
        if not isinstance(error, BrokenPipeError):
            print(f"controlplane: cannot write the output: {error.strerror}", file=sys.stderr)
        return 2
    return code


def _serve(settings: Settings, options: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or it writes a line for each client that speaks no TLS
    # Kubernetes' package, gRPC and Envoy's messages take a second to import, and only this needs them.
    from controlplane import process

    return process.of_disk(settings, options) if options.manifests else process.of_cluster(settings, options)


def _render(settings: Settings, options: argparse.Namespace) -> int:
    from controlplane import offline

    return offline.render(options.file, Key(*options.node), settings)


def _explain(settings: Settings, options: argparse.Namespace) -> int:
    from controlplane import offline

    if options.calls:
        return offline.tell_of_calls(options.file, Key(*options.node), options.calls, settings)
    return offline.tell(options.file, Key(*options.node), options.host, options.method, settings)


def _print(settings: Settings, options: argparse.Namespace) -> int:
    bootstrap = settings.bootstrap
    if options.directory:
        return _write(bootstrap, options.directory)
    print(yaml.dump(config_map(bootstrap, options.namespace), Dumper=_Dumper, sort_keys=False), end="")
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
        help="tell sidecars where Services are, and keep their bootstrap in every opted-in namespace",
        description=SERVE,
        epilog=SERVE_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("--namespace", default=HOME, type=_namespace, help=f"where we are installed (default: {HOME})")
    serve.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server; not needed in a pod")
    serve.add_argument("--from", dest="manifests", type=Path, metavar="PATH", help=FROM)
    serve.add_argument("--tls-directory", type=Path, metavar="DIR", help=TLS)
    serve.add_argument("--xds-address", type=_address, metavar="IP:PORT", help=XDS)
    serve.add_argument("--retention-days", type=_days, default=30, metavar="DAYS", help=RETENTION)
    serve.add_argument("--period-seconds", type=_seconds, default=60.0, metavar="SECONDS", help=PERIOD)
    serve.add_argument("--metrics-address", default="::", metavar="IP", help="for /metrics, /healthz and /readyz")
    serve.add_argument("--metrics-port", type=_port, default=9090, metavar="PORT", help="the same (default: 9090)")
    render = commands.add_parser("render", help="print what a pod's Envoy would be told", description=RENDER)
    explain = commands.add_parser("explain", help="say where a request would go, and why", description=EXPLAIN)
    for command in (render, explain):
        command.add_argument("-f", "--file", type=Path, required=True, metavar="PATH", help=FILE)
        command.add_argument("--node", type=_pod, required=True, metavar="NS/POD", help="whose Envoy")
    asked = explain.add_mutually_exclusive_group(required=True)
    asked.add_argument(
        "host", nargs="?", help="as the application would write it: orders, orders:80, http://orders.shop/"
    )
    asked.add_argument("--calls", metavar="PAGE", help=CALLS)
    explain.add_argument("--method", type=str.upper, default="GET", help="of the request (default: GET)")
    for command, run in ((bootstrap, _print), (serve, _serve), (render, _render), (explain, _explain)):
        command.add_argument("--settings", type=Path, metavar="FILE", help="the settings file of the webhook")
        command.set_defaults(run=run)
    return parser


def _port(text: str) -> int:
    """0: any that is free."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: a number from 0 to 65535")
    return int(text)


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    try:
        ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write an IP and a port, such as 127.0.0.1:15012") from None
    _port(port)
    return text


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


def _pod(text: str) -> tuple[str, str]:
    namespace, _, name = text.partition("/")
    if not re.fullmatch(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?", name):
        raise argparse.ArgumentTypeError(f"{text!r} is no pod: write its namespace and its name, such as shop/web-1")
    return _namespace(namespace), name


class _Dumper(yaml.SafeDumper):
    """Writes the files as blocks, so that a person can read them."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


if __name__ == "__main__":
    sys.exit(main())
