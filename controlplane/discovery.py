"""How a sidecar's Envoy reaches the control plane: by TLS, with the pod's own token, and in no hurry to start.

The files that it names are mounted: the CA from the ConfigMap `envoy-sidecar-ca`, the token by the kubelet. Both are
read anew when the kubelet swaps them, without a restart.
"""

from dataclasses import dataclass

from controlplane.extensions import HTTP_OPTIONS, TLS_VERSIONS, Json, config, extension

CLUSTER = "controlplane"
FILES = "/etc/envoy-sidecar"  # the bootstrap's, and those of `secrets`
TRUST_CONFIG_MAP = "envoy-sidecar-ca"
TRUST = "/etc/envoy-sidecar-ca"  # where it is mounted, with `ca.crt`
AUDIENCE = "envoy-sidecar-controlplane"
TOKEN = "/var/run/secrets/envoy-sidecar"  # noqa: S105  a path, with `token`
# The kubelet's symlink to what is mounted now. When it moves, those beside it to single files may not be there yet, and
# Envoy does not look twice.
_MOUNTED = "..data"
FETCH_SECONDS = 0.9  # that a start waits for each of clusters and listeners; traffic passes without them


@dataclass(frozen=True, slots=True)
class Way:
    """Where the control plane is, and the directories of `ca.crt`, of `token`, and of the two files of `secrets`."""

    host: str
    port: int
    name: str  # that its certificate holds
    trust: str = TRUST
    token: str = TOKEN
    files: str = FILES


def way(address: str) -> Way:
    """The one to `host:port`, which in a cluster is a headless Service: every replica's address."""
    host, _, port = address.rpartition(":")
    return Way(host, int(port), host)


def dynamic() -> Json:
    """The bootstrap's `dynamic_resources`."""
    source = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": f"{FETCH_SECONDS}s"}
    return {
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [
                {
                    "envoy_grpc": {
                        "cluster_name": CLUSTER,
                        "max_receive_message_length": 64 << 20,
                        # The first attempt is made before DNS has answered.
                        "retry_policy": {"retry_back_off": {"base_interval": "0.05s", "max_interval": "5s"}},
                    }
                }
            ],
        },
        "cds_config": source,
        "lds_config": source,
    }


def cluster(way: Way, *, dual: bool) -> Json:
    """The static cluster of the control plane's replicas; `dual` also asks for IPv6 addresses."""
    address = {"socket_address": {"address": way.host, "port_value": way.port}}
    return {
        "name": CLUSTER,
        "cluster_type": {
            "name": "envoy.cluster.dns",
            "typed_config": config(
                "envoy.extensions.clusters.dns.v3.DnsCluster",
                # Six questions each time, with three search domains and two families; thousands of sidecars ask.
                dns_refresh_rate="30s",
                dns_jitter="5s",
                dns_failure_refresh_rate={"base_interval": "1s", "max_interval": "30s"},
                dns_lookup_family="ALL" if dual else "V4_ONLY",
            ),
        },
        # By turns, proxies that came to one replica together would all go on together to the next, for hours.
        "lb_policy": "RANDOM",
        "connect_timeout": "1s",
        # Where DNS does not answer, a start would wait for a minute.
        "wait_for_warm_on_init": False,
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        # A replica that vanished is noticed, and another one asked.
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_time": 60}},
        "typed_extension_protocol_options": {HTTP_OPTIONS: _http(way)},
        "transport_socket": _tls(way),
    }


def secrets(way: Way) -> dict[str, Json]:
    """Files beside the bootstrap that say where the CA and the token are: name -> content."""
    return {
        "ca.json": {
            "resources": [
                config(
                    "envoy.extensions.transport_sockets.tls.v3.Secret",
                    name="ca",
                    validation_context={
                        "trusted_ca": {"filename": f"{way.trust}/{_MOUNTED}/ca.crt"},
                        "watched_directory": {"path": way.trust},
                    },
                )
            ]
        },
        "token.json": {
            "resources": [
                config(
                    "envoy.extensions.transport_sockets.tls.v3.Secret",
                    name="token",
                    generic_secret={
                        "secret": {
                            # Of such a secret Envoy watches the folder of the file, whatever is said to be watched: by
                            # the symlink it would never see the next token. The first is there before any container.
                            "filename": f"{way.token}/token",
                            "watched_directory": {"path": way.token},
                        }
                    },
                )
            ]
        },
    }


def _http(way: Way) -> Json:
    credential = extension(
        "envoy.http.injected_credentials.generic",
        "http.injected_credentials.generic.v3.Generic",
        credential={"name": "token", "sds_config": _file(way, "token.json", way.token)},
        header="authorization",
        header_value_prefix="Bearer ",
    )
    return config(
        HTTP_OPTIONS,
        explicit_http_config={
            "http2_protocol_options": {"connection_keepalive": {"interval": "30s", "timeout": "5s"}},
        },
        http_filters=[
            extension(
                "envoy.filters.http.credential_injector",
                "filters.http.credential_injector.v3.CredentialInjector",
                overwrite=True,
                credential=credential,
            ),
            extension("envoy.filters.http.upstream_codec", "filters.http.upstream_codec.v3.UpstreamCodec"),
        ],
    )


def _tls(way: Way) -> Json:
    return extension(
        "envoy.transport_sockets.tls",
        "transport_sockets.tls.v3.UpstreamTlsContext",
        sni=way.name,
        common_tls_context={
            "tls_params": TLS_VERSIONS,
            "alpn_protocols": ["h2"],
            "combined_validation_context": {
                "default_validation_context": {
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": way.name}}]
                },
                "validation_context_sds_secret_config": {"name": "ca", "sds_config": _file(way, "ca.json", way.trust)},
            },
        },
    )


def _file(way: Way, name: str, watched: str) -> Json:
    """A file of `secrets`, read again when the mounted directory changes: what it names may not be there yet."""
    source = {"path": f"{way.files}/{name}", "watched_directory": {"path": watched}}
    return {"path_config_source": source, "resource_api_version": "V3"}
