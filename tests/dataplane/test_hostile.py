"""What an author writes does not change what a running Envoy does: not by quotes, braces, new lines or `$(VAR)`.

Names, and values of labels, hold none of these: Kubernetes refuses them (tests/apiserver/test_hostile.py), and where
admission comes before that, so do we (tests/unit/test_hostile.py). Here they are as long as they may be.
"""

import json
from typing import Any

import pytest

from tests.apiserver.processes import eventually
from tests.build import PREFIX
from tests.dataplane.lab import Document, Lab, Pod, manifest
from tests.dataplane.pairs import IDLE
from tests.dataplane.told import admin
from tests.hostile import HOSTILE

pytestmark = [pytest.mark.dataplane, pytest.mark.envoy]

Json = dict[str, Any]
LONG = ".".join(["a" * 63] * 3 + ["b" * 61])  # a DNS subdomain of 253 characters
LABEL = "a" + "-_." * 20 + "zz"  # 63 characters
ENTRIES = 128  # of a list


@pytest.fixture(scope="module")
def plain(node: Lab) -> Json:
    """What the Envoy of a harmless pod does."""
    return running(node.pod(manifest("web", IDLE)))


def running(pod: Pod) -> Json:
    """All that its Envoy does, and the options that it has, without times; Envoy lists routes in no order."""
    text = eventually(lambda: admin(pod, "/config_dump"), "the admin interface answers")
    server = json.loads(admin(pod, "/server_info"))
    configs = json.loads(text, object_hook=lambda part: {key: part[key] for key in part if key != "last_updated"})
    for section in configs["configs"]:
        section.get("static_route_configs", []).sort(key=json.dumps)
    return {**configs, "node": server["node"], "options": server["command_line_options"]}


def taken_out(dump: Json) -> Json:
    """What is each pod's own: who it is."""
    (bootstrap,) = (section["bootstrap"] for section in dump["configs"] if "bootstrap" in section)
    assert bootstrap["node"].pop("metadata") == dump["node"]["metadata"]
    for name in ("config_yaml", "service_node", "service_cluster"):
        del dump["options"][name]
    return {name: dump["node"].pop(name) for name in ("id", "cluster", "metadata")}


def everywhere(written: Document) -> Document:
    """Each hostile text wherever Kubernetes lets an author write it and we, or the kubelet, read."""
    meta, app = written["metadata"], dict(written["spec"]["containers"][0])
    del meta["labels"]  # which would name the service
    meta["annotations"] = {f"example.com/{number}": text for number, text in enumerate(HOSTILE)}
    meta["annotations"] |= {f"{PREFIX}{number}": text for number, text in enumerate(HOSTILE)}  # unknown keys: a warning
    meta["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Job", "name": text, "uid": "1", "controller": number == 0}
        for number, text in enumerate(HOSTILE)
    ]
    app["env"] = [
        *({"name": name, "value": HOSTILE[0]} for name in ("POD_NAME", "POD_IP", "ENVOY_UID")),
        *({"name": f"E{number}", "value": text.replace("\0", "")} for number, text in enumerate(HOSTILE)),
    ]
    app["args"] = [text.replace("\0", "") for text in HOSTILE]
    app["command"] = ["sh", "-c", "sleep infinity"]
    written["spec"]["containers"] = [app]
    return written


def test_free_text_changes_nothing(node: Lab, plain: Json) -> None:
    found, wanted = running(node.pod(everywhere(manifest("web", IDLE)))), json.loads(json.dumps(plain))
    who, other = taken_out(found), taken_out(wanted)
    assert found == wanted
    assert {**who["metadata"], "pod_ip": ""} == {**other["metadata"], "pod_ip": ""}
    assert (who["id"], who["cluster"]) == ("web.shop", "web")


def test_the_longest_names_are_what_they_are_and_change_nothing_else(node: Lab, plain: Json) -> None:
    written = manifest(LONG, IDLE, serviceAccountName=LONG, nodeName=LONG)
    written["metadata"] |= {"namespace": "n" * 63, "labels": {"app": LABEL}}
    upstreams = [f"a{number:03}{'s' * 59}" for number in range(ENTRIES)]
    written["metadata"]["annotations"] = {f"{PREFIX}upstreams": ",".join(upstreams)}
    pod = node.pod(written)
    found, wanted = running(pod), json.loads(json.dumps(plain))
    taken_out(wanted)
    assert taken_out(found) == {
        "id": f"{LONG}.{'n' * 63}",
        "cluster": LABEL,
        "metadata": {
            "namespace": "n" * 63,
            "pod_ip": pod.address["ipv4"],
            "node_name": LONG,
            "service_account": LONG,
            "upstreams": ",".join(upstreams),
        },
    }
    assert found == wanted
