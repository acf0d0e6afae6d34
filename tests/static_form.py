"""What a proxy would be told over a stream, as an Envoy configuration of its own, so that Envoy itself can judge it."""

import copy
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from controlplane.clusters import static
from controlplane.extensions import Json
from controlplane.xds.snapshot import Caller, Kind
from controlplane.xds.translated import Translated
from tests import envoy


def resources(of: Translated, caller: Caller) -> dict[str, list[Json]]:
    """All that this caller is told, as JSON: `clusters`, `endpoints`, `listeners`, `routes`."""

    def told(kind: Kind, names: Iterable[str]) -> list[Json]:
        return [one for name in names if (one := of.source(kind, of.meant(kind, name, caller)))]

    clusters = of.names(Kind.CLUSTER, caller)
    listeners = told(Kind.LISTENER, of.names(Kind.LISTENER, caller))
    return {
        "clusters": told(Kind.CLUSTER, clusters),
        "endpoints": told(Kind.ENDPOINTS, clusters),
        "listeners": listeners,
        "routes": told(Kind.ROUTES, dict.fromkeys(name for one in listeners if (name := routes_of(one)))),
    }


def routes_of(listener: Json) -> str | None:
    """The name of the routes that a listener asks for."""
    rds = (manager["rds"] for chain in listener["filter_chains"] if (manager := _manager(chain)) and "rds" in manager)
    return next((one["route_config_name"] for one in rds), None)


def configuration(told: dict[str, list[Json]]) -> Json:
    """A whole configuration: clusters ask for endpoints, and once more have them; listeners hold their routes."""
    routes = {one["name"]: one for one in told["routes"]}
    listeners = copy.deepcopy(told["listeners"])
    for listener in listeners:
        for chain in listener["filter_chains"]:
            manager = _manager(chain)
            if manager and "rds" in manager:
                manager["route_config"] = routes[manager.pop("rds")["route_config_name"]]
    xds = {
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    return {
        "node": {"id": "web-1.shop", "cluster": "web"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            }
        },
        "static_resources": {
            "clusters": [*static(1), xds, *told["clusters"], *(_with(one, told) for one in told["clusters"])],
            "listeners": listeners,
        },
    }


def validate(folder: Path, configuration: Json) -> tuple[int, str]:
    """Envoy's exit code, and what it says: warnings, deprecated fields among them, and errors."""
    (folder / "static.json").write_text(json.dumps(configuration))
    command = [str(envoy.binary()), "--mode", "validate", "--log-level", "warning", "-c", "static.json"]
    ended = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
    return ended.returncode, ended.stderr


def _manager(chain: Json) -> Json | None:
    found = (one["typed_config"] for one in chain["filters"] if one["name"].endswith("http_connection_manager"))
    return next(found, None)


def _with(cluster: Json, told: dict[str, list[Json]]) -> Json:
    known = {one["cluster_name"]: one for one in told["endpoints"]}
    rest = {key: value for key, value in cluster.items() if key not in ("type", "eds_cluster_config")}
    assignment = {**known[cluster["name"]], "cluster_name": f"{cluster['name']} with endpoints"}
    return {**rest, "name": assignment["cluster_name"], "type": "STATIC", "load_assignment": assignment}
