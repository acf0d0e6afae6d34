"""The command line: what there is, with an example each. What it does stands in the modules named here."""

import argparse
import gc
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

LEVELS = ("privileged", "baseline", "restricted")

EXIT_CODES = """
exit codes:
  0  done
  1  a workload is rejected
  2  wrong usage, or input that cannot be read
"""

SERVE = """
Answers the API server over HTTPS until SIGTERM; metrics are on a plain port of their own. Certificates are reloaded
when they change; settings are read once, a changed file is a new rollout. Options win over the file.

example:
  python -m webhook serve --settings docs/examples/settings.yaml --tls-dir /tmp/tls --port 8443 --metrics-port 9090

exit codes:
  0  stopped by a signal, every request answered
  2  settings or certificate cannot be used, or a port is taken
"""

INJECT = f"""
Reads Pods, Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs and Lists of them, and prints what the
API server would store in a namespace that has opted in. Everything else comes out byte for byte. What became of each
workload is told on standard error. If anything is rejected, nothing is printed. In a document that gets a sidecar,
comments inside are lost.

example:
  python -m webhook inject -f docs/examples/web.yaml
{EXIT_CODES}"""

EXPLAIN = f"""
Says for each workload whether its pods are injected, skipped or rejected, and why, with every warning, and each value
that its sidecar gets: from an annotation, from the operator's settings, or built in.

example:
  python -m webhook explain -f docs/examples/web.yaml --pod-security baseline
{EXIT_CODES}"""

SETTINGS = """
example:
  python -m webhook settings check docs/examples/settings.yaml
"""

CHECK = """
Prints "ok", the settings' hash and every setting in effect; or every problem in the file, each with its path.

example:
  python -m webhook settings check docs/examples/settings.yaml

exit codes:
  0  the webhook starts with these settings
  2  it does not, or the file cannot be read
"""


UNUSABLE = 2  # exit code: what was asked for cannot be done


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; its exit code."""
    if sys.stdout is None or sys.stderr is None:
        return UNUSABLE  # closed: there is nobody to tell
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may know fewer characters than a pod
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except OSError as error:  # the reader of our output has seen enough, or has no room
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left for Python to flush at exit
        if not isinstance(error, BrokenPipeError):
            print(f"webhook: cannot write the output: {error.strerror}", file=sys.stderr)
        return UNUSABLE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m webhook", description="Gives pods an Envoy sidecar.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_serve(commands)
    for name, help_, text, run in (
        ("inject", "add the sidecar to workloads in a YAML file", INJECT, _inject),
        ("explain", "say what becomes of the workloads in a YAML file, and why", EXPLAIN, _explain),
    ):
        command = _add(commands, name, help_, text, run)
        command.add_argument("-f", "--file", metavar="FILE", required=True, help="a YAML stream; - is standard input")
        command.add_argument(
            "--pod-security",
            metavar="LEVEL",
            choices=LEVELS,
            default="privileged",
            help="what the namespace enforces: privileged (default), baseline or restricted",
        )
        command.add_argument(
            "--settings", metavar="FILE", type=Path, help="the operator's settings; none: the defaults"
        )
    settings = _add(commands, "settings", "check the operator's settings", SETTINGS, None)
    check = _add(
        settings.add_subparsers(metavar="COMMAND", required=True), "check", "check a settings file", CHECK, _check
    )
    check.add_argument("file", metavar="FILE", type=Path)
    return parser


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    serve = _add(commands, "serve", "answer the API server", SERVE, _serve)
    serve.add_argument("--settings", metavar="FILE", type=Path, help="the operator's settings; none: the defaults")
    serve.add_argument("--tls-dir", metavar="DIR", dest="tls_directory", help="holds tls.crt and tls.key")
    serve.add_argument(
        "--client-ca", metavar="FILE", dest="client_ca_file", help="admit clients with a certificate of it only"
    )
    serve.add_argument(
        "--published", metavar="FILE", dest="published_file", help="unready until it lists our bootstrap"
    )
    serve.add_argument("--address", metavar="IP", help="to listen on; :: is every address of both families")
    serve.add_argument("--port", metavar="N", type=_port, help="of admissions, HTTPS; 0: any that is free")
    serve.add_argument("--metrics-port", metavar="N", type=_port, help="of metrics and probes, HTTP; 0: any")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, 0 to 65535")
    return int(text)


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    help_: str,
    text: str,
    run: object,
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=help_, description=help_, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.set_defaults(run=run)
    return command


def _serve(arguments: argparse.Namespace) -> int:
    import pydantic

    gc.disable()  # what starting allocates stays; the server collects again: saves 100 ms
    pydantic.BaseModel.model_config["defer_build"] = True  # FastAPI's models of OpenAPI, never used here: 70 ms
    from webhook import server

    names = ("tls_directory", "client_ca_file", "published_file", "address", "port", "metrics_port")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return server.run_serve(arguments.settings, given)


def _inject(arguments: argparse.Namespace) -> int:
    from webhook import offline

    return offline.run_inject(arguments.file, arguments.pod_security, arguments.settings)


def _explain(arguments: argparse.Namespace) -> int:
    from webhook import offline

    return offline.run_explain(arguments.file, arguments.pod_security, arguments.settings)


def _check(arguments: argparse.Namespace) -> int:
    from webhook import offline

    return offline.run_check(arguments.file)


if __name__ == "__main__":
    sys.exit(main())
