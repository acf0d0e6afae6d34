"""The command line: what there is, with an example each. What it does stands in the modules named here."""

import argparse
import re
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from certs.authority import is_dns_name, issue_ca, issue_leaf
from certs.bundle import Validity
from certs.objects import NAMESPACE, Installation
from certs.rotation import Lifetimes

if TYPE_CHECKING:
    from certs import kube, rounds

LIFETIME = timedelta(days=365)
NAMES = ("localhost", "127.0.0.1", "::1", "envoy-sidecar-webhook.envoy-sidecar-system.svc")
UNDONE, UNUSABLE = 1, 2  # exit codes

RUN = """
Looks at every certificate and every published trust once a minute, and at once when a namespace opts in or a trust is
changed; replaces what is due in the order that rotation.py describes. Any number of replicas may run.

example:
  python -m certs run --ca-days 365 --leaf-days 30 --metrics-port 9090

exit codes:
  0  stopped by a signal
  2  wrong usage, no credentials for the API server, or the port is taken
"""

ENSURE = """
Does at once what `run` would do, and says why. It does not wait: whatever has to wait for the publication delay is left
to `run`. --dry-run rehearses all of it in memory and changes nothing.

example:
  python -m certs ensure --dry-run

exit codes:
  0  all that can be done now is done, or was rehearsed
  1  a step failed
  2  wrong usage, or the cluster cannot be read
"""

SHOW = """
Says what is there, until when it is valid, and what happens next.

example:
  python -m certs show

exit codes:
  0  said
  2  wrong usage, or the cluster cannot be read
"""

DEV = """
Writes ca.crt, tls.crt and tls.key to DIR, for the demo, tests and local development. The key of the CA is thrown away.

example:
  python -m certs dev /tmp/tls --name localhost --name 127.0.0.1

exit codes:
  0  written
  1  DIR cannot be written
  2  wrong usage
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 not done, 2 wrong usage, or a part of it is not usable."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if problem := next(_lifetimes(options).problems(), None) if "ca_days" in options else None:
        parser.error(problem)
    code: int = options.run(options)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m certs", description="Certificates that stay valid.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _add(commands, "run", "keep certificates valid until stopped", RUN, _run)
    run.add_argument("--period-seconds", type=_seconds, default=60, metavar="S", help="between two looks (60)")
    run.add_argument("--metrics-address", default="::", metavar="IP", help="of metrics and health; default: all")
    run.add_argument("--metrics-port", type=_port, default=9090, metavar="N", help="plain HTTP (9090); 0: any")
    run.add_argument("--log-format", choices=("json", "text"), default="json", help="of each line (json)")
    ensure = _add(commands, "ensure", "do now what is due", ENSURE, _ensure)
    ensure.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    for command in (run, ensure, _add(commands, "show", "say what is there, and what comes next", SHOW, _show)):
        _add_cluster(command)
    dev = _add(commands, "dev", "write a throwaway CA and serving certificate", DEV, _dev)
    dev.add_argument("directory", metavar="DIR", type=Path, help="is created if it does not exist")
    names = f"DNS name or IP address to serve under; may be repeated (default: {', '.join(NAMES)})"
    dev.add_argument("--name", action="append", metavar="NAME", help=names)
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, help_: str, text: str, run: object
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=help_, description=help_, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.set_defaults(run=run)
    return command


def _add_cluster(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--namespace", type=_label, default=NAMESPACE, metavar="NAME", help=f"where the servers run ({NAMESPACE})")
    add(
        "--cluster-domain",
        type=_domain,
        default="cluster.local",
        metavar="NAME",
        help="of the cluster's DNS (cluster.local)",
    )
    add("--ca-days", type=_days, default=timedelta(days=365), metavar="D", help="a CA is valid (365)")
    add("--leaf-days", type=_days, default=timedelta(days=30), metavar="D", help="a serving certificate is valid (30)")
    add(
        "--publication-delay-seconds",
        type=_seconds,
        default=150,
        metavar="S",
        help="until what was published has reached every API server and kubelet (150)",
    )
    add("--kubeconfig", metavar="FILE", help="default: the pod's own account, else as kubectl does")
    add("--context", metavar="NAME", help="of the kubeconfig")


def _label(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a namespace")
    return text


def _domain(text: str) -> str:
    if not is_dns_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no DNS name in lower case")
    return text


def _seconds(text: str) -> float:
    return _number(text, 1e9, "seconds")


def _days(text: str) -> timedelta:
    return timedelta(days=_number(text, 36500, "days"))


def _number(text: str, most: float, unit: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of {unit} above 0, up to {most:g}")
    return number


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, 0 to 65535")
    return int(text)


def _lifetimes(options: argparse.Namespace) -> Lifetimes:
    return Lifetimes(options.ca_days, options.leaf_days, timedelta(seconds=options.publication_delay_seconds))


def _run(options: argparse.Namespace) -> int:
    from certs import kube, logs, service

    logs.start(options.log_format)
    try:
        cluster, keeper = _keeper(options)
        process = service.Service(keeper, cluster, options.period_seconds)
        service.run(process, options.metrics_address, options.metrics_port)
    except kube.KubeError as error:
        return _unusable(error)
    except OSError as error:
        return _unusable(ValueError(f"--metrics-address, --metrics-port: {error.strerror}"))
    return 0


def _ensure(options: argparse.Namespace) -> int:
    from certs import kube, rehearsal, rounds, show
    from certs.steps import Step

    def tell(step: Step, error: kube.KubeError | None) -> None:
        for line in show.steps([step]):
            print(line)
        if error:
            print(f"    failed: {error}")

    try:
        _, keeper = _keeper(options)
        if options.dry_run:
            keeper = replace(keeper, store=rehearsal.Rehearsal(keeper.store.read()))
        settled = rounds.settle(keeper, tell)
    except kube.KubeError as error:
        return _unusable(error)
    print(_ended(len(settled.failures), rehearsed=options.dry_run))
    for line in show.agenda(settled.observed, settled.at, keeper.lifetimes):
        print(line)
    return UNDONE if settled.failures else 0


def _ended(failures: int, *, rehearsed: bool) -> str:
    if rehearsed:
        return "Nothing was changed: this was a rehearsal. After all that, next:"
    if failures:
        return f"Not done, for {failures} step{'s' if failures > 1 else ''} failed. Next, besides:"
    return "Nothing is left to do now. Next:"


def _show(options: argparse.Namespace) -> int:
    from certs import kube, show

    try:
        _, keeper = _keeper(options)
        reading, observed, steps = keeper.look()
    except kube.KubeError as error:
        return _unusable(error)
    for line in show.state(observed, steps, reading.at, keeper.lifetimes):
        print(line)
    return 0


def _keeper(options: argparse.Namespace) -> tuple["kube.Kube", "rounds.Keeper"]:
    from certs import kube, rounds  # `dev` needs neither, and they take 0.2 s to import

    installation = Installation(options.namespace, options.cluster_domain)
    cluster = kube.Kube(kube.connect(options.kubeconfig, options.context), installation)
    return cluster, rounds.Keeper(cluster, installation, _lifetimes(options), time.monotonic, _chance)


def _chance() -> str:
    return secrets.token_hex(4)


def _unusable(error: Exception) -> int:
    print(f"certs: {error}", file=sys.stderr)
    return UNUSABLE


def _dev(options: argparse.Namespace) -> int:
    directory, names = options.directory, options.name or NAMES
    validity = Validity.starting(datetime.now(UTC), LIFETIME)
    try:
        ca = issue_ca("development CA", validity)
        leaf = issue_leaf(ca, names, validity)
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory / "ca.crt", ca.certificate)
        _write(directory / "tls.crt", leaf.certificate)
        _write(directory / "tls.key", leaf.key, mode=0o600)
    except ValueError as error:
        return _unusable(ValueError(f"--name: {error}"))
    except OSError as error:
        print(f"certs: {error.filename}: {error.strerror}", file=sys.stderr)
        return UNDONE
    print(f"wrote ca.crt, tls.crt, tls.key to {directory}, for {', '.join(names)}, until {validity.not_after:%F}")
    return 0


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Puts a whole file in place; a key is never readable by others, not even for a moment."""
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=mode, exist_ok=False)
    fresh.write_bytes(content)
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
