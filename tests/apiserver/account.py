"""A ServiceAccount of ours with its real token: what it asks for, and a kubeconfig for a process that runs as it."""

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.control_plane import kubeconfig

SYSTEM = "envoy-sidecar-system"
JSON, JSON_PATCH, MERGE_PATCH, APPLY = (
    "application/json",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/apply-patch+yaml",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """The status of an HTTP request, and the object or the Status that came back."""

    status: int
    body: Object

    @property
    def message(self) -> str:
        return str(self.body.get("message", ""))


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who is signed in."""

    cluster: Cluster
    name: str
    token: str = field(repr=False)

    def ask(self, method: str, path: str, body: object = None, content_type: str = JSON, *, dry: bool = True) -> Answer:
        """One request; `dry`: everything of a request is done but storing it."""
        query = {JSON: "", JSON_PATCH: "", MERGE_PATCH: "", APPLY: "fieldManager=tests&force=true&"}[content_type]
        query += "dryRun=All" if dry and method != "GET" else ""
        request = urllib.request.Request(
            f"{self.cluster.url}{path}{'&' if '?' in path else '?'}{query}",
            json.dumps(body).encode() if body is not None else None,
            {"Authorization": f"Bearer {self.token}", "Content-Type": content_type},
            method=method,
        )
        context = ssl.create_default_context(cafile=self.cluster.ca)
        try:
            with urllib.request.urlopen(request, context=context, timeout=30) as answer:
                return Answer(answer.status, json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, json.load(error))

    @property
    def kubeconfig(self) -> Path:
        """A file that makes a process this account."""
        file = self.cluster.directory / f"{self.name}.kubeconfig"
        file.touch(mode=0o600)
        file.write_text(yaml.safe_dump(kubeconfig(replace(self.cluster, token=self.token))))
        return file


def sign_in(cluster: Cluster, name: str) -> Account:
    """The account of that name in our namespace, with a token that the API server issued for it."""
    return Account(cluster, name, cluster.kubectl("create", "token", name, "-n", SYSTEM).stdout.strip())
