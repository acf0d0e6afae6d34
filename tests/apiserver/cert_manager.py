"""cert-manager itself and its resource definitions, of the release that `certmanager/go.mod` pins.

Built like the programs of Kubernetes: once per machine, where there is Go, beside them.

To build ahead of a test run: `python -m tests.apiserver.cert_manager`
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import needs
from tests.apiserver.binaries import caches, only_one, usable_go
from tests.apiserver.cluster import Cluster
from tests.apiserver.processes import running

MODULE = Path(__file__).parent / "certmanager"
NAME = "github.com/cert-manager/cert-manager"


@dataclass(frozen=True, slots=True)
class Release:
    """A folder with the program and the definitions."""

    folder: Path

    @property
    def program(self) -> Path:
        return self.folder / "cert-manager"

    @property
    def definitions(self) -> Path:
        return self.folder / "definitions"


def release() -> Release:
    """The pinned one; ends the test if it is not there and cannot be built. A build takes minutes."""
    sources = hashlib.sha256(b"".join((MODULE / name).read_bytes() for name in ("main.go", "go.mod", "go.sum")))
    wanted = Release(caches() / f"cert-manager-{sources.hexdigest()[:10]}")
    if wanted.folder.exists():
        return wanted
    go = usable_go()
    if go is None:
        needs.missing("cert-manager", "put Go 1.26 or newer on PATH to build it")
    with only_one(wanted.folder.with_name(f".{wanted.folder.name}.lock")):
        return wanted if wanted.folder.exists() else build(go, wanted)


def build(go: str, wanted: Release) -> Release:
    """Compiles the program; nobody ever sees half a release."""
    print(f"building cert-manager into {wanted.folder}: some minutes, once per machine", file=sys.stderr)
    unfinished = Release(Path(tempfile.mkdtemp(prefix=".cert-manager-", dir=caches())))
    command = [go, "build", "-C", str(MODULE), "-trimpath", "-ldflags=-s -w", "-o", str(unfinished.program), "."]
    subprocess.run(command, check=True, env={**os.environ, "CGO_ENABLED": "0"})
    where = [go, "list", "-C", str(MODULE), "-m", "-f", "{{.Dir}}", NAME]
    source = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    shutil.copytree(Path(source, "deploy", "crds"), unfinished.definitions, copy_function=shutil.copyfile)
    unfinished.folder.rename(wanted.folder)
    return wanted


@contextmanager
def managing(cluster: Cluster, using: Release) -> Iterator[None]:
    """It runs in that cluster, which knows its resources."""
    cluster.kubectl("apply", "--server-side", "-f", str(using.definitions))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    command = [str(using.program), f"--kubeconfig={cluster.kubeconfig}"]
    with running(command, cluster.directory / "cert-manager.log"):
        yield


if __name__ == "__main__":
    try:
        print(release().folder)
    except needs.MISSING as missing:
        sys.exit(str(missing))
