"""python -m certs dev DIR: a throwaway CA and serving certificate for the demo, tests and local development."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from certs.authority import issue_ca, issue_leaf
from certs.bundle import Validity

DAYS = 365
NAMES = ("localhost", "127.0.0.1", "::1", "envoy-sidecar-webhook.envoy-sidecar-system.svc")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0 done, 1 the files cannot be written, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        return _dev(options.directory, options.name or NAMES)
    except ValueError as error:
        print(f"certs: --name: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"certs: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m certs", description="Certificates of the webhook.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    dev = commands.add_parser(
        "dev",
        help="write a throwaway CA and serving certificate",
        description="Writes ca.crt, tls.crt and tls.key to DIR. The key of the CA is thrown away.",
        epilog="example: python -m certs dev /tmp/tls --name localhost --name 127.0.0.1",
    )
    dev.add_argument("directory", metavar="DIR", type=Path, help="is created if it does not exist")
    dev.add_argument(
        "--name",
        action="append",
        metavar="NAME",
        help=f"DNS name or IP address to serve under; may be repeated (default: {', '.join(NAMES)})",
    )
    return parser


def _dev(directory: Path, names: Sequence[str]) -> int:
    validity = Validity.starting(datetime.now(UTC), DAYS)
    ca = issue_ca("development CA", validity)
    leaf = issue_leaf(ca, names, validity)
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / "ca.crt", ca.certificate)
    _write(directory / "tls.crt", leaf.certificate)
    _write(directory / "tls.key", leaf.key, mode=0o600)
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
