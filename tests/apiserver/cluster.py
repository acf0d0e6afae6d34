"""kubectl, and what a test reads of a running cluster: objects, and the audit log."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.apiserver import binaries
from tests.apiserver.processes import eventually

Object = dict[str, Any]
Input = str | Object | Sequence[Object]


class KubectlError(AssertionError):
    """kubectl failed where the test expected success."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a kubectl command printed, and its exit code."""

    stdout: str
    stderr: str
    code: int

    @property
    def warnings(self) -> str:
        """All warnings as one text: a warning has at most 120 characters, so long ones come in lines."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("Warning: ")]
        return " ".join(line.removeprefix("Warning: ").strip() for line in lines)

    @property
    def object(self) -> Object:
        """What `-o json` printed. Raises KubectlError if the command failed."""
        if self.code:
            raise KubectlError(self.stderr)
        loaded: Object = json.loads(self.stdout)
        return loaded


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running API server and how to reach it as cluster-admin."""

    url: str
    token: str
    directory: Path

    @property
    def kubeconfig(self) -> Path:
        return self.directory / "kubeconfig"

    @property
    def ca(self) -> Path:
        return self.directory / "apiserver" / "apiserver.crt"

    def kubectl(self, *arguments: str, stdin: Input = "", check: bool = True) -> Result:
        """Runs kubectl; objects on `stdin` become YAML. `check`: raises KubectlError if it fails."""
        command = [str(binaries.kubernetes("kubectl")), *arguments]
        done = subprocess.run(
            command,
            input=stdin if isinstance(stdin, str) else documents(stdin),
            capture_output=True,
            text=True,
            check=False,
            env={"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.directory), "PATH": os.defpath},
        )
        if done.stderr:
            print(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")  # pytest shows it if the test fails
        if check and done.returncode:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return Result(done.stdout, done.stderr, done.returncode)

    def get(self, *arguments: str) -> Object:
        """One object, or a List, as the API server stores it."""
        return self.kubectl("get", *arguments, "-o", "json").object

    def audit(self, name: str, namespace: str) -> Mapping[str, str]:
        """The audit annotations of the request that created a pod."""

        def annotations() -> Mapping[str, str] | None:
            with (self.directory / "audit.log").open() as log:
                for event in (json.loads(line) for line in log if line.endswith("\n")):  # the last may be half
                    about = event["objectRef"]
                    asked = (about.get("name"), about.get("namespace"))
                    if asked == (name, namespace) and "dryRun" not in event["requestURI"]:
                        found: Mapping[str, str] = event.get("annotations", {})
                        return found
            return None

        return eventually(annotations, f"an audit event of pod {namespace}/{name}")

    def looks(self, configuration: str, name: str, namespace: str) -> list[bool]:
        """Whether each call of a webhook configuration for that new pod changed it, in order."""
        audit = self.audit(name, namespace)
        rounds = sorted(key for key in audit if key.startswith("mutation.webhook.admission.k8s.io/"))
        calls = [json.loads(audit[key]) for key in rounds]
        return [call["mutated"] for call in calls if call["configuration"] == configuration]


def documents(objects: Object | Sequence[Object]) -> str:
    """One YAML stream."""
    return yaml.safe_dump_all([objects] if isinstance(objects, dict) else objects)
