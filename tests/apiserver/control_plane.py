"""A Kubernetes control plane for one test session: etcd and kube-apiserver on loopback.

It has RBAC, the default admission plugins, and an audit log that keeps every annotation. No kubelet, and a
controller-manager only where a test asks for one.
"""

import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from ssl import create_default_context

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.apiserver import binaries
from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.processes import NotReadyError, eventually, free_port, running, tail
from tests.clients import ClientAuthority, Shown

AUDIT_POLICY: Object = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["create"], "resources": [{"resources": ["pods"]}]},
        {"level": "None"},
    ],
}
CLIENT_NAME = "kube-apiserver"  # what the certificate says that it shows to webhooks
REINVOKING = "--enable-admission-plugins=AlwaysPullImages"  # changes what a webhook added, so it is called once more
CONTROLLERS = ("deployment-controller", "replicaset-controller", "job-controller")


@contextmanager
def started(directory: Path, *more: str) -> Iterator[Cluster]:
    """A control plane whose files and logs live in `directory`, up until the block ends. `more`: flags."""
    with etcd(directory) as store, apiserver(directory, store, *more) as cluster:
        yield cluster


@contextmanager
def etcd(directory: Path) -> Iterator[str]:
    """An etcd that forgets everything: no fsync."""
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    urls = [
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
    ]
    command = [str(binaries.etcd()), "--unsafe-no-fsync", f"--data-dir={directory / 'etcd'}", *urls]
    with running(command, directory / "etcd.log"):
        yield client


@contextmanager
def apiserver(directory: Path, store: str, *more: str) -> Iterator[Cluster]:
    """A kube-apiserver over that etcd, once it says that it is ready."""
    cluster = described(directory)
    with serving(cluster, store, *more):
        yield cluster


def described(directory: Path) -> Cluster:
    """A cluster whose API server does not run yet."""
    cluster = Cluster(f"https://127.0.0.1:{free_port()}", secrets.token_hex(16), directory)
    write_inputs(cluster)
    return cluster


@contextmanager
def serving(cluster: Cluster, store: str, *more: str) -> Iterator[None]:
    """Its API server, ready; with all that etcd holds, if it is not the first time."""
    log = cluster.directory / "apiserver.log"
    port = int(cluster.url.rpartition(":")[2])
    command = [str(binaries.kubernetes("kube-apiserver")), *flags(cluster.directory, store, port), *more]
    with running(command, log) as process:

        def ready() -> bool:
            if process.poll() is not None:
                raise NotReadyError(f"kube-apiserver ended:\n{tail(log)}")
            return cluster.ca.exists() and answers(f"{cluster.url}/readyz", cluster)

        eventually(ready, f"kube-apiserver is ready, see {log}", seconds=90)
        yield


def flags(directory: Path, store: str, port: int) -> list[str]:
    key = directory / "service-accounts.key"
    return [
        f"--etcd-servers={store}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--cert-dir={directory / 'apiserver'}",
        # Both keep the server from asking the machine for an address of its own, which it may not have.
        "--advertise-address=192.0.2.1",
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--token-auth-file={directory / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--allow-privileged=true",
        f"--admission-control-config-file={directory / 'admission.yaml'}",
        f"--audit-policy-file={directory / 'audit-policy.yaml'}",
        f"--audit-log-path={directory / 'audit.log'}",
    ]


def write_inputs(cluster: Cluster) -> None:
    """The files that kube-apiserver and kubectl read at start."""
    shown = ClientAuthority(cluster.directory / "clients").issue(CLIENT_NAME)
    write = {
        "admission.yaml": yaml.safe_dump(admission_configuration(cluster.directory / "webhooks.kubeconfig")),
        "webhooks.kubeconfig": yaml.safe_dump(for_webhooks(shown)),
        "tokens.csv": f'{cluster.token},admin,admin,"system:masters"\n',
        "audit-policy.yaml": yaml.safe_dump(AUDIT_POLICY),
        "service-accounts.key": signing_key(),
        "kubeconfig": yaml.safe_dump(kubeconfig(cluster)),
    }
    for name, content in write.items():
        (cluster.directory / name).touch(mode=0o600)
        (cluster.directory / name).write_text(content)


def admission_configuration(for_webhooks: Path) -> Object:
    """Makes the API server read what it shows to webhooks in that file (kubernetes.io, "Authenticate apiservers")."""
    configuration = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "WebhookAdmissionConfiguration",
        "kubeConfigFile": str(for_webhooks),
    }
    plugins = ("MutatingAdmissionWebhook", "ValidatingAdmissionWebhook")
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "AdmissionConfiguration",
        "plugins": [{"name": plugin, "configuration": configuration} for plugin in plugins],
    }


def for_webhooks(shown: Shown) -> Object:
    """One certificate for all webhooks; those that ask for none never see it."""
    user = {"client-certificate": str(shown.certificate), "client-key": str(shown.key)}
    return {"apiVersion": "v1", "kind": "Config", "users": [{"name": "*", "user": user}]}


def signing_key() -> str:
    """A fresh key for ServiceAccount tokens, as PEM in the one form (SEC 1) that Kubernetes reads for EC."""
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def kubeconfig(cluster: Cluster) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": cluster.url, "certificate-authority": str(cluster.ca)}}],
        "users": [{"name": "admin", "user": {"token": cluster.token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
    }


def answers(url: str, cluster: Cluster) -> bool:
    """Whether a GET of this URL is answered with 200."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {cluster.token}"})
    try:
        with urllib.request.urlopen(request, context=create_default_context(cafile=cluster.ca), timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@contextmanager
def controller_manager(cluster: Cluster, controllers: Sequence[str] = CONTROLLERS) -> Iterator[None]:
    """These controllers; by default, those between a Deployment or a Job and its pods."""
    command = [
        str(binaries.kubernetes("kube-controller-manager")),
        f"--kubeconfig={cluster.kubeconfig}",
        f"--controllers={','.join(controllers)}",
        f"--service-account-private-key-file={cluster.directory / 'service-accounts.key'}",
        "--leader-elect=false",
        "--secure-port=0",
    ]
    with running(command, cluster.directory / "controller-manager.log"):
        yield
