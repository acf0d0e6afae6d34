"""Pods that are legal and seldom: with a sidecar they are accepted too, and are what their author wrote."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.apiserver.cluster import Cluster, Object
from tests.apiserver.objects import SIDECAR, container, named, pod
from webhook.pod import CONTAINERS, VOLUMES

DATA: Object = {"name": "data", "emptyDir": {}}
TOKEN: Object = {"serviceAccountToken": {"path": "token", "audience": "vault", "expirationSeconds": 600}}
LABELS: Object = {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}
API_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
NAME_OF_POD = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
RESTART = {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}


def mounting(path: str, **mount: str) -> Object:
    return container(env=[NAME_OF_POD], volumeMounts=[{"name": "data", "mountPath": path, **mount}])


UNUSUAL: dict[str, Object] = {
    "a claim of a device": pod(
        containers=[container(resources={"claims": [{"name": "gpu"}]})],
        resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
    ),
    "users of its own": pod(hostUsers=False, securityContext={"fsGroup": 2000, "supplementalGroupsPolicy": "Strict"}),
    "a /proc that is not masked": pod(
        hostUsers=False, containers=[container(securityContext={"procMount": "Unmasked"})]
    ),
    "resources of the pod": pod(
        resources={"requests": {"cpu": "2", "memory": "1Gi"}, "limits": {"hugepages-2Mi": "2Mi"}}
    ),
    "200 containers": pod(containers=[container(f"c{number}") for number in range(200)]),
    "a port twice": pod(
        containers=[container(name, ports=[{"name": "http", "containerPort": 80}]) for name in ("one", "two")]
    ),
    "a port of ours by another protocol": pod(
        containers=[container(ports=[{"containerPort": 15006, "protocol": "SCTP"}])]
    ),
    "a port of ours on the node": pod(containers=[container(ports=[{"containerPort": 80, "hostPort": 15006}])]),
    "a path of variables": pod(containers=[mounting("/data", subPathExpr="$(POD_NAME)/$$(x)")], volumes=[DATA]),
    "a token for somebody else": pod(
        containers=[mounting("/var/run/secrets/tokens")],
        volumes=[{"name": "data", "projected": {"sources": [TOKEN, LABELS]}}],
    ),
    "a token in the place of the API's": pod(
        automountServiceAccountToken=False,
        containers=[mounting(API_TOKEN)],
        volumes=[{"name": "data", "projected": {"sources": [TOKEN]}}],
    ),
    "an image as a volume": pod(
        containers=[mounting("/data")], volumes=[{"name": "data", "image": {"reference": "registry.example.com/model"}}]
    ),
    "variables in variables": pod(containers=[container(args=["$(A)"], env=[{"name": "A", "value": "$(B) $$(C)"}])]),
    "a sidecar of its own, and an init container": pod(
        initContainers=[
            container("own", restartPolicy="Always", lifecycle={"preStop": {"sleep": {"seconds": 3}}}),
            container("migrate"),
        ]
    ),
    "rules of restarting": pod(
        restartPolicy="Never", containers=[container(restartPolicy="Never", restartPolicyRules=[RESTART])]
    ),
    "a gate before scheduling": pod(schedulingGates=[{"name": "example.com/quota"}]),
    "names of its own": pod(
        hostname="h",
        subdomain="s",
        setHostnameAsFQDN=True,
        hostAliases=[{"ip": "192.0.2.1", "hostnames": ["a"]}],
        dnsPolicy="None",
        dnsConfig={"nameservers": ["192.0.2.1"]},
    ),
    "processes of all in one": pod(shareProcessNamespace=True, hostPID=False, hostIPC=True),
    "system calls of its own": pod(securityContext={"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}),
    "a name of 253 characters": pod("a" * 253),
}


@pytest.fixture
def answer(kubernetes: Cluster, shop: str, new_namespace: Callable[..., str]) -> Callable[..., Object]:
    """The pod that would be stored, in a namespace with sidecars or in one without."""
    elsewhere = new_namespace({})

    def create(thing: Object, *, opted_in: bool) -> Object:
        into = shop if opted_in else elsewhere
        return kubernetes.kubectl("create", "-n", into, "--dry-run=server", "-o", "json", "-f", "-", stdin=thing).object

    return create


def authors(stored: Object) -> Any:
    """The spec without our parts, and without the random names that the API server gives."""
    spec = stored["spec"]
    for key in ("containers", "initContainers"):
        spec[key] = [one for one in spec.get(key, ()) if one["name"] not in CONTAINERS]
        for one in spec[key]:
            for mount in one.get("volumeMounts", ()):
                mount["name"] = re.sub(r"^(kube-api-access)-.*", r"\1", mount["name"])
    volumes = [one for one in spec.get("volumes", ()) if one["name"] not in VOLUMES]
    spec["volumes"] = [one | {"name": re.sub(r"^(kube-api-access)-.*", r"\1", one["name"])} for one in volumes]
    return spec


@pytest.mark.parametrize("thing", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_an_unusual_pod_gets_its_sidecar_and_stays_what_it_is(answer: Callable[..., Object], thing: Object) -> None:
    injected = answer(thing, opted_in=True)
    assert named(injected["spec"]["initContainers"], SIDECAR)
    assert authors(injected) == authors(answer(thing, opted_in=False))
