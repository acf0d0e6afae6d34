"""cert-manager and its trust-manager, each with its resource definitions, of the releases that `certmanager/go.mod` and
`trustmanager/go.mod` pin.

Built like the programs of Kubernetes: once per machine, where there is Go, beside them.

To build ahead of a test run: `python -m tests.apiserver.cert_manager`
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import needs
from tests.apiserver.binaries import caches, only_one, usable_go
from tests.apiserver.cluster import Cluster
from tests.apiserver.processes import running

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Program:
    """What is built: a package, in a folder that pins its module, which has the definitions too."""

    name: str
    folder: Path
    package: str
    module: str


CERT_MANAGER = Program("cert-manager", HERE / "certmanager", ".", "github.com/cert-manager/cert-manager")
TRUST_MANAGER = Program(
    "trust-manager",
    HERE / "trustmanager",
    "github.com/cert-manager/trust-manager/cmd/trust-manager",
    "github.com/cert-manager/trust-manager",
)


@dataclass(frozen=True, slots=True)
class Release:
    """A folder with the program and the definitions."""

    folder: Path

    @property
    def program(self) -> Path:
        return self.folder / "program"

    @property
    def definitions(self) -> Path:
        return self.folder / "definitions"


def release(of: Program) -> Release:
    """The pinned one; ends the test if it is not there and cannot be built. A build takes minutes."""
    sources = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(of.folder.iterdir()) if file.is_file()))
    wanted = Release(caches() / f"{of.name}-{sources.hexdigest()[:10]}")
    if wanted.folder.exists():
        return wanted
    go = usable_go()
    if go is None:
        needs.missing(of.name, "put Go 1.26 or newer on PATH to build it")
    with only_one(wanted.folder.with_name(f".{wanted.folder.name}.lock")):
        return wanted if wanted.folder.exists() else build(go, of, wanted)


def build(go: str, of: Program, wanted: Release) -> Release:
    """Compiles the program; nobody ever sees half a release."""
    print(f"building {of.name} into {wanted.folder}: some minutes, once per machine", file=sys.stderr)
    unfinished = Release(Path(tempfile.mkdtemp(prefix=f".{of.name}-", dir=caches())))
    command = [go, "build", "-C", str(of.folder), "-trimpath", "-ldflags=-s -w", "-o", str(unfinished.program)]
    subprocess.run([*command, of.package], check=True, env={**os.environ, "CGO_ENABLED": "0"})
    where = [go, "list", "-C", str(of.folder), "-m", "-f", "{{.Dir}}", of.module]
    source = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    definitions = Path(source, "deploy", "crds").glob("*.yaml")
    unfinished.definitions.mkdir()
    for file in definitions:
        shutil.copyfile(file, unfinished.definitions / file.name)
    unfinished.folder.rename(wanted.folder)
    return wanted


@contextmanager
def managing(cluster: Cluster, of: Program, kubeconfig: Path, options: Sequence[str] = ()) -> Iterator[None]:
    """It runs in that cluster, which knows its resources; its log is beside the cluster's."""
    using = release(of)
    cluster.kubectl("apply", "--server-side", "-f", str(using.definitions))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    command = [str(using.program), f"--kubeconfig={kubeconfig}", *options]
    with running(command, cluster.directory / f"{of.name}.log"):
        yield


if __name__ == "__main__":
    try:
        for program in (CERT_MANAGER, TRUST_MANAGER):
            print(release(program).folder)
    except needs.MISSING as missing:
        sys.exit(str(missing))
