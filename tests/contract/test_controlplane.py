"""The control plane in the cluster: what it is given, and under which name sidecars find it, is what the code says."""

from collections.abc import Iterator
from pathlib import PurePath

import pytest

from certs import objects
from certs.objects import Installation
from controlplane import bootstrap, discovery, process, proxies
from controlplane.__main__ import _parser
from controlplane.rounds import OPTED_IN
from controlplane.xds import credentials, service
from controlplane.xds.transport import Limits
from controlplane.xds.watch import COLLECTIONS
from tests.contract.rendered import CONTROLPLANE, NAMESPACE, Object, one, pod_spec, render, settings_file
from webhook import pod, settings

XDS = "grpc-xds"
MIB = 1 << 20
NAMES = {target.name: names for target, names in Installation().leaves.items()}[f"{CONTROLPLANE}-tls"]


def container() -> Object:
    (found,) = pod_spec(render(), CONTROLPLANE)["containers"]
    assert isinstance(found, dict)
    return found


def options() -> Object:
    program, *arguments = container()["args"]
    assert program == "controlplane"
    return vars(_parser().parse_args(arguments))


def rights() -> Iterator[tuple[str, frozenset[str]]]:
    for rule in one(render(), "ClusterRole", CONTROLPLANE)["rules"]:
        for resource in rule["resources"]:
            yield resource, frozenset(rule["verbs"])


def test_the_process_understands_its_arguments() -> None:
    given = options()
    assert (given["namespace"], given["settings"].name) == (NAMESPACE, "settings.yaml")


def test_it_listens_where_the_manifest_says() -> None:
    given, ports = options(), {port["name"]: port["containerPort"] for port in container()["ports"]}
    address = given["xds_address"] or proxies.EVERYWHERE
    assert ports == {XDS: int(address.rpartition(":")[2]), "metrics": given["metrics_port"]}


def test_its_certificate_lies_where_it_looks() -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    name = mounts[str(options()["tls_directory"])]
    (volume,) = [it for it in pod_spec(render(), CONTROLPLANE)["volumes"] if it["name"] == name]
    assert volume["secret"]["secretName"] == f"{CONTROLPLANE}-tls"
    assert [item["path"] for item in volume["secret"]["items"]] == [credentials.CERTIFICATE, credentials.KEY]


def test_each_ready_replica_has_an_address_of_its_own_under_the_name_that_its_certificate_holds() -> None:
    found = one(render(), "Service", CONTROLPLANE)
    spec = found["spec"]
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", False)
    assert spec["selector"] == one(render(), "Deployment", CONTROLPLANE)["spec"]["selector"]["matchLabels"]
    assert f"{found['metadata']['name']}.{found['metadata']['namespace']}.svc" in NAMES


def test_sidecars_ask_for_that_name_and_port() -> None:
    host, _, port = settings.parse(settings_file(render()), "base").bootstrap.control_plane.rpartition(":")
    (served,) = one(render(), "Service", CONTROLPLANE)["spec"]["ports"]
    assert (host, int(port)) == (f"{CONTROLPLANE}.{NAMESPACE}.svc", served["port"])
    assert host in NAMES
    assert f"{host}.cluster.local" in NAMES  # which docs/operations.md offers to pods without search domains


def test_they_trust_what_certs_publishes() -> None:
    (secret,) = discovery.secrets(discovery.way("host:1"))["ca.json"]["resources"]
    file = PurePath(secret["validation_context"]["trusted_ca"]["filename"])
    assert discovery.TRUST_CONFIG_MAP == objects.CONFIG_MAP
    assert file.is_relative_to(discovery.TRUST)
    assert file.name == objects.CONFIG_MAP_KEY


def test_no_port_is_renumbered_on_the_way_for_a_headless_service_cannot() -> None:
    (port,) = one(render(), "Service", CONTROLPLANE)["spec"]["ports"]
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert (port["name"], port["targetPort"], port["port"]) == (XDS, XDS, ports[XDS])


def test_sidecars_of_every_namespace_may_call_and_nobody_else() -> None:
    (rule,) = [
        it for it in one(render(), "NetworkPolicy", CONTROLPLANE)["spec"]["ingress"] if it["ports"][0]["port"] == XDS
    ]
    sidecars = {"matchLabels": {pod.INJECTED_LABEL: "true"}}
    assert rule["from"] == [{"namespaceSelector": {}, "podSelector": sidecars}]


def test_rule_26_the_grace_period_holds_the_pause_and_the_end_of_streams() -> None:
    pause = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    one_request = 20  # seconds: apiserver.TIMEOUT
    needed = pause + process.STOP_SECONDS + 1 + one_request
    assert pod_spec(render(), CONTROLPLANE)["terminationGracePeriodSeconds"] >= needed


@pytest.mark.parametrize("resource", ["secrets", "configmaps"])
def test_rule_24_it_reads_no_secret_and_no_config_map_of_a_namespace(resource: str) -> None:
    reads = frozenset({"get", "list", "watch"})
    assert [verbs for name, verbs in rights() if name == resource and verbs & reads] == []


def test_rule_24_what_it_writes_are_config_maps_events_and_questions() -> None:
    reads = frozenset({"get", "list", "watch"})
    assert {name for name, verbs in rights() if verbs - reads} == {"configmaps", "events", "tokenreviews"}


def test_rule_24_it_may_watch_what_it_watches_and_nothing_else() -> None:
    watched = {collection.path.rpartition("/")[2] for collection in (*COLLECTIONS.values(), OPTED_IN)}
    assert watched == {name for name, verbs in rights() if verbs & {"list", "watch"}}


def test_it_may_have_what_as_many_sidecars_take_as_it_serves() -> None:
    """120 KiB each, beside those that connect and say nothing; and a file descriptor for each."""
    assert container()["resources"]["limits"]["memory"] == "1Gi"
    limits = Limits()
    silent = limits.connections - limits.streams
    assert 120 * MIB + limits.streams * (120 << 10) + silent * 55_000 < 1024 * MIB
    assert 2 * limits.connections < service.FILES


def test_envoy_looks_at_every_bootstrap_before_it_is_published() -> None:
    looked_at = [PurePath(it["args"][-1]).name for it in pod_spec(render(), CONTROLPLANE)["initContainers"][1:]]
    assert sorted(looked_at) == sorted(bootstrap.render(bootstrap.Bootstrap()))


def test_a_token_is_good_for_nobody_else() -> None:
    assert discovery.AUDIENCE == CONTROLPLANE
