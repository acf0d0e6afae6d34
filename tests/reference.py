"""The reference tables of the docs, made from the code that they describe."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from operator import attrgetter
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from pydantic.alias_generators import to_camel

from controlplane import access_log, bounds, choices
from controlplane.xds import annotations as of_services
from controlplane.xds.values import show_duration
from tests.dataplane.limits import LIMITS
from tests.monitoring.rules import LABELS, alerts
from webhook import explain, settings
from webhook.annotations import TABLE, Annotation
from webhook.policy import RejectReason, SkipReason
from webhook.settings import Settings
from webhook.values import Quantity

# What a setting does that no annotation overrides; of the others, the annotation's help says it.
HELP = {
    "sidecar.imagePullPolicy": "When the node pulls the Envoy image.",
    "sidecar.uid": "The user that Envoy runs as; traffic of this user is not redirected.",
    "sidecar.gid": "The group that Envoy runs as; traffic of this group is not redirected.",
    "init.image": "The image of the init container.",
    "init.imagePullPolicy": "When the node pulls it.",
    "init.resources.cpuRequest": "The init container's CPU request.",
    "init.resources.cpuLimit": "Its CPU limit.",
    "init.resources.memoryRequest": "Its memory request.",
    "init.resources.memoryLimit": "Its memory limit.",
    "authors.allow": "What authors may set: the name of an annotation, and true, false or a list of values.",
    "authors.optOut": "Whether a pod may opt out by label; `denied` needs `manifests/components/opt-out-denied`.",
    "authors.conflicts": "What follows if an application container has the sidecar's uid or gid, or NET_ADMIN.",
    "images.allowed": "Prefixes of the images that an author may name, if `authors.allow.image` is set; none: any.",
    "unknownAnnotations": "What follows from an annotation under our prefix that is not in the reference.",
    "bootstrap.ipFamilies": "The address families of a pod in mode `none`; the others ask their node.",
    "bootstrap.maxConnections": "Connections that a sidecar keeps open; it refuses the next.",
    "bootstrap.connectTimeoutSeconds": "How long a sidecar waits for an address to accept a connection.",
    "bootstrap.tracing.collector": "Where spans go, by OTLP over gRPC; without one nothing is traced.",
    "bootstrap.tracing.ca": "Whose certificate the collector must show; `system`: those in the image. Empty: no TLS.",
    "bootstrap.tracing.percent": "Of the requests that come without a trace context, how many begin a trace.",
    "bootstrap.controlPlane": "Who tells sidecars where Services are; its certificate holds that host. Empty: nobody.",
    "bootstrap.upgrades": "`Upgrade` tokens that pass besides websocket, SPDY/3.1 and tcp.",
    "controlplane.scope": "What a pod that declares no `upstreams` is told; `list` is that of `sidecar.upstreams`.",
    "controlplane.onDemand": "Whether its sidecar is told how to call a Service when it first does, and not before.",
    "controlplane.clusterDomain": "The domain that Kubernetes' DNS serves.",
    "server.address": "Where the webhook listens; `::` is every address of both families.",
    "server.port": "The HTTPS port of admissions.",
    "server.metricsPort": "The HTTP port of metrics and probes.",
    "server.tlsDirectory": "Holds `tls.crt` and `tls.key`; a change is served without a restart.",
    "server.publishedFile": "Lists the bootstraps that are in every namespace; a replica is unready until its own is.",
    "server.clientCaFile": "CAs in PEM; who shows no certificate of one of them is not admitted. Empty: all are.",
    "server.clientNames": "One of these must be a common or alternative name of a client's certificate.",
    "server.maxConnections": "At the port of admissions; beyond them, those that have been idle longest are ended.",
    "server.maxHandshakes": "As many may be in their TLS handshake; beyond them, the oldest give way after 0.5 s.",
    "server.handshakeSeconds": "How long a TLS handshake may take.",
    "server.requestSeconds": "How long a client may take to send a request.",
    "server.answerSeconds": "How long a client may take to receive an answer.",
    "server.keepAliveSeconds": "How long an idle connection stays open; the API server's client keeps 90 seconds.",
    "server.shutdownGraceSeconds": "How long a replica that ends is unready and still serves.",
    "server.drainSeconds": "How long it then waits for requests that it has begun.",
    "server.logFormat": "One JSON object a line, or text.",
    "server.logLevel": "What is logged: each admission at `info`.",
}

# What a field of the access log says.
LOG_FIELDS = {
    "direction": "The listener: `inbound`, `outbound`, `opaque-inbound`, `opaque-outbound` or `explicit`.",
    "time": "When the request, or the connection, began.",
    "pod": "The pod's name.",
    "namespace": "Its namespace.",
    "flags": "Why Envoy failed it, in Envoy's codes, such as `UF` for a server that cannot be reached.",
    "details": "The same in words; `via_upstream` for an answer of the application's.",
    "duration_ms": "How long it took, in milliseconds.",
    "client": "The caller's address and port.",
    "destination": "Where it was going.",
    "upstream": "Where Envoy sent it.",
    "upstream_failure": "Why the connection there failed.",
    "bytes_received": "Bytes of the body, or of the connection, from the client.",
    "bytes_sent": "Bytes to the client.",
    "server_name": "TCP: the name in a TLS client's first message.",
    "termination": "TCP: why Envoy ended it.",
    "method": "HTTP: the method.",
    "path": "HTTP: the target, with its query.",
    "authority": "HTTP: the `Host`.",
    "protocol": "HTTP: its version.",
    "status": "HTTP: the status.",
    "attempts": "HTTP: how often it was sent on.",
    "request_id": "HTTP: `x-request-id`.",
}

_KINDS: tuple[tuple[object, str], ...] = (
    (settings.Cpu, "cores"),
    (settings.Memory, "bytes"),
    (settings.Image, "an image"),
    (settings.Ports, "a list of ports and ranges"),
    (settings.Cidrs, "a list of networks"),
    (settings.Services, "a list of Services"),
    (bounds.HostPort, "`host:port`"),
    (bounds.CAs, "PEM, or `system`"),
    (choices.Domain, "a domain"),
    (settings.Allowed, "a mapping"),
    (bool, "`true`, `false`"),
    (tuple[str, ...], "a list"),
    (str, "text"),
)


def annotations() -> str:
    """Every annotation that an author may set."""
    rows = [
        (f"`{row.name}`", row.values, _default(row), _free(row), row.help)
        for row in sorted(TABLE, key=attrgetter("name"))
    ]
    return table(("annotation", "values", "default", "authors may set", "what it does"), rows)


def service_annotations() -> str:
    """Every annotation of a Service; each example is one that Envoy takes, as the golden tests show."""
    rows = [
        (f"`{row.name}`", row.values, _shown(row), f"`{row.example}`", row.help)
        for row in sorted(of_services.TABLE, key=attrgetter("name"))
    ]
    return table(("annotation", "values", "default", "example", "what it does"), rows)


def _shown(row: of_services.Annotation) -> str:
    """Its default, as an author would write it."""
    default = of_services.default_of(row)
    if row.values.startswith("a time"):
        return f"`{show_duration(int(str(default)))}`" if default else "none"
    match default:
        case None if row.name == "eject-percent":
            return "`50`; where a zone or node is preferred, `100`"
        case None:
            return "`least-request`; with the Service's sessionAffinity `ClientIP`, its caller is hashed"
        case () | "":
            return "none"
        case ("source-ip", _):
            return "`source-ip`"
        case tuple(words):
            return f"`{','.join(words)}`"
        case _:
            return f"`{default}`"


def setting_table() -> str:
    """Every setting."""
    return table(("setting", "values", "default", "what it does"), list(_settings(Settings(), "")))


def skips() -> str:
    return table(("code", "because"), [(f"`{reason}`", reason.sentence) for reason in SkipReason])


def rejections() -> str:
    return table(("code", "because"), [(f"`{reason}`", reason.sentence) for reason in RejectReason])


def alert_table() -> str:
    """Every alert, and the metrics by which it knows."""
    rows = [
        (
            f"[{name}](#{name.lower()})",
            rule["labels"]["severity"],
            rule["annotations"]["summary"],
            _metrics(rule["expr"]),
        )
        for name, rule in alerts().items()
    ]
    return table(("alert", "severity", "what it says", "metric"), rows)


def _metrics(expression: str) -> str:
    names = re.findall(r"(?<![\w:])(?:[a-z_]+:)?(?:envoy|apiserver)_[\w:]+", expression)
    found = [name for name in dict.fromkeys(names) if name not in LABELS]
    return ", ".join(f"`{name.removesuffix('_bucket')}`" for name in found)


def limit_table() -> str:
    """What Envoy cannot keep."""
    rows = [(limit.what, limit.becomes, limit.instead or "-") for limit in LIMITS]
    return table(("what", "becomes", "instead"), rows)


def log_table() -> str:
    """Every field of the access log."""
    return table(("field", "what it says"), [(f"`{name}`", LOG_FIELDS[name]) for name in access_log.FIELDS])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def _default(row: Annotation) -> str:
    return f"`{explain.show(attrgetter(row.default)(Settings()))}`".replace("`-`", "none")


def _free(row: Annotation) -> str:
    match row.free:
        case True:
            return "yes"
        case False:
            return "no"
        case values:
            under_pod_security = "; `none` where PodSecurity forbids that" if row.name == "mode" else ""
            return ", ".join(f"`{value}`" for value in values) + under_pod_security


def _settings(section: Any, path: str) -> Iterator[tuple[str, str, str, str]]:
    kinds = get_type_hints(type(section), include_extras=True)
    for field in fields(section):
        here, value = f"{path}{to_camel(field.name)}", getattr(section, field.name)
        if is_dataclass(value) and not isinstance(value, Quantity):
            yield from _settings(value, f"{here}.")
        else:
            yield f"`{here}`", _kind(kinds[field.name]), f"`{_written(value)}`", help_of(here)


def help_of(path: str) -> str:
    """What the setting does: as the annotation that overrides it says, or HELP."""
    return next((row.help for row in TABLE if explain.setting_path(row) == path), "") or HELP[path]


def _written(value: object) -> str:
    """As YAML on one line."""
    match value:
        case () | []:
            return "[]"
        case {}:
            return "{}"
        case tuple():
            return f"[{explain.show(value)}]".replace(",", ", ")
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def _kind(kind: Any) -> str:
    """What may be written, in words."""
    for known, words in _KINDS:
        if kind == known:
            return words
    if get_origin(kind) is Annotated and get_origin(get_args(kind)[0]) is Literal:
        return _kind(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if isinstance(kind, UnionType) or NoneType in get_args(kind):
        return " or ".join("`null`" if each is NoneType else _kind(each) for each in get_args(kind))
    return _bounds(kind)


def _bounds(kind: Any) -> str:
    """`1 to 128`, of an Annotated number."""
    if get_origin(kind) is tuple:
        return "a list"
    _, rule, *_ = get_args(kind)
    limits = {type(limit).__name__: limit for limit in getattr(rule, "metadata", [])}
    least, most = (limits["Ge"].ge, limits["Le"].le) if limits else (rule.least, rule.most)
    return f"{least} to {most}"
