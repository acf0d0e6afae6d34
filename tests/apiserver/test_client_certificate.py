"""The API server proves to the webhook who it is; whoever cannot is refused."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPSConnection
from pathlib import Path
from ssl import create_default_context

import yaml

from tests import build
from tests.apiserver.cluster import Cluster
from tests.apiserver.control_plane import CLIENT_NAME
from tests.apiserver.injector import Injector, injecting, settings
from tests.apiserver.installation import Installation
from tests.apiserver.objects import SIDECAR, init_names, pod
from tests.apiserver.processes import eventually
from tests.serving import JSON, exchange


@contextmanager
def asking(installation: Installation, directory: Path, name: str) -> Iterator[Injector]:
    """A replica that admits clients of that name, called in the place of the session's."""
    base = installation.manifests()
    server = {"clientCaFile": str(installation.cluster.directory / "clients" / "client-ca.crt"), "clientNames": [name]}
    content = yaml.safe_load(settings(base)) | {"server": server}
    with injecting(directory / f"asking-{name}", yaml.safe_dump(content), replicas=1) as webhook:
        installation.apply(base, webhook)
        eventually(lambda: called(installation, webhook), "it is called")
        yield webhook
        installation.apply(base, installation.webhook)
        before = installation.webhook.requests()
        eventually(lambda: installation.injects() and installation.webhook.requests() > before, "the old ones are")


def test_the_api_server_shows_its_certificate_and_others_are_refused(
    kubernetes: Cluster, installation: Installation, directory: Path, shop: str
) -> None:
    with asking(installation, directory, CLIENT_NAME) as webhook:
        stored = kubernetes.kubectl("create", "-n", shop, "-o", "json", "-f", "-", stdin=pod()).object
        assert SIDECAR in init_names(stored)
        assert statuses(webhook) == {"/inject": 403, "/advise": 403, "/readyz": 200}


def test_an_api_server_of_another_name_is_told_what_is_missing(
    installation: Installation, directory: Path, shop: str
) -> None:
    with asking(installation, directory, "somebody-else"):
        refused = installation.ask(pod(), within=shop)
        assert "server.clientCaFile" in refused.stderr


def called(installation: Installation, webhook: Injector) -> bool:
    installation.ask(pod())
    return webhook.requests() > 0


def statuses(webhook: Injector) -> dict[str, int]:
    """What a client without a certificate gets."""
    context, found = create_default_context(cafile=webhook.certificate / "ca.crt"), {}
    for path, method in {"/inject": "POST", "/advise": "POST", "/readyz": "GET"}.items():
        with closing(HTTPSConnection("localhost", webhook.port, context=context, timeout=10)) as client:
            found[path] = exchange(client, method, path, json.dumps(build.review()), JSON).status
    return found
