"""The operator's interface: one YAML file, one validated, frozen object.

Every problem is reported at once, each with its path. What is not written has the default given here. The
`server` section may differ between replicas, and `controlplane` is another process's; all the rest decides what a pod
looks like, and is in `hash`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from controlplane.bootstrap import PORTS, Bootstrap, content_hash
from controlplane.choices import ControlPlane
from webhook import documents, values
from webhook.documents import Document
from webhook.errors import MalformedDocument, SettingsError

__all__ = ["PORTS", "Settings", "load", "parse"]

MAX_BYTES = 1 << 20  # a ConfigMap holds no more

Mode = Literal["redirect", "tproxy", "none"]
Form = Literal["native", "classic"]
# YAML 1.1 reads a bare `off` as false.
_OFF = BeforeValidator(lambda raw: "off" if raw is False else raw)
LogLevel = Literal["trace", "debug", "info", "warning", "error", "critical", "off"]
AccessLog = Literal["off", "errors", "all"]


def _reads(parse: Callable[[str], Any]) -> BeforeValidator:
    """Reads a scalar through the parser that the annotations use as well."""

    def read(raw: object) -> object:
        return parse(str(raw)) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else raw

    return BeforeValidator(read)


def _reads_list(parse: Callable[[str], Any]) -> BeforeValidator:
    def read(raw: object) -> object:
        return parse(",".join(str(entry) for entry in raw)) if isinstance(raw, list) else raw

    return BeforeValidator(read)


Cpu = Annotated[values.Quantity, _reads(values.parse_cpu)]
Memory = Annotated[values.Quantity, _reads(values.parse_memory)]
Image = Annotated[str, _reads(values.parse_image)]
Ports = Annotated[values.Ports, _reads_list(values.parse_ports)]
Cidrs = Annotated[tuple[str, ...], _reads_list(values.parse_cidrs)]
Services = Annotated[tuple[str, ...], _reads_list(values.parse_services)]
Allowed = dict[str, bool | tuple[Annotated[str, _OFF], ...]]
Id = Annotated[int, Field(ge=1, le=2**31 - 1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[int, Field(ge=0, le=3600)]
Limit = Annotated[int, Field(ge=1, le=3600)]  # seconds too; none at all would let nobody through


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarResources:
    """What the Envoy container asks for, and the most it gets; a limit of null means none."""

    cpu_request: Cpu = values.parse_cpu("50m")
    cpu_limit: Cpu | None = values.parse_cpu("1")
    memory_request: Memory = values.parse_memory("80Mi")
    memory_limit: Memory | None = values.parse_memory("320Mi")


@dataclass(frozen=True, slots=True, kw_only=True)
class InitResources:
    """The same for the init container, whose requests the sidecar's cover."""

    cpu_request: Cpu = values.parse_cpu("10m")
    cpu_limit: Cpu | None = values.parse_cpu("500m")
    memory_request: Memory = values.parse_memory("16Mi")
    memory_limit: Memory | None = values.parse_memory("64Mi")


Resources = SidecarResources | InitResources
_R = TypeVar("_R", SidecarResources, InitResources)


def _form_fits_mode(sidecar: "Sidecar") -> "Sidecar":
    if sidecar.form == "classic" and sidecar.mode == "none":
        raise ValueError("form classic does not go with mode none")
    return sidecar


def _request_within_limit(resources: _R) -> _R:
    for name in ("cpu", "memory"):
        request, limit = getattr(resources, f"{name}_request"), getattr(resources, f"{name}_limit")
        if limit is not None and request > limit:
            raise ValueError(f"{name}Request {request} is above {name}Limit {limit}")
    return resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """The Envoy container. What an author may set by annotation has its default here."""

    image: Image = "docker.io/envoyproxy/envoy:distroless-v1.40.0"
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    mode: Mode = "redirect"
    form: Form = "native"
    resources: Annotated[SidecarResources, AfterValidator(_request_within_limit)] = SidecarResources()
    concurrency: Annotated[int, Field(ge=1, le=128)] = 2
    log_level: Annotated[LogLevel, _OFF] = "warning"
    access_log: Annotated[AccessLog, _OFF] = "off"
    drain_seconds: Seconds = 20
    upstreams: Services = ()
    uid: Id = 1337
    gid: Id = 1337


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """The init container, which applies the redirection rules."""

    image: Image = "ghcr.io/envoy-sidecar-injector/init:0.1.0"
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    resources: Annotated[InitResources, AfterValidator(_request_within_limit)] = InitResources()


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Traffic that is never redirected, or passes without protocol detection. Lists: at most 128 entries."""

    exclude_inbound_ports: Ports = ()
    exclude_outbound_ports: Ports = ()
    exclude_outbound_cidrs: Cidrs = ()
    include_outbound_cidrs: Cidrs = ()
    opaque_inbound_ports: Ports = ()
    # Server-first protocols wait 0.5 s per hop for the inspectors: SMTP, POP3, IMAP, MySQL, NATS, AMQP.
    opaque_outbound_ports: Ports = values.parse_ports("25,110,143,587,3306,4222,5672")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authors:
    """What pod authors may set. A key maps to true, false, or the list of values that are allowed."""

    allow: Allowed = field(default_factory=dict)
    opt_out: Literal["allowed", "denied"] = "allowed"
    conflicts: Literal["reject", "warn"] = "reject"  # our uid or gid, or NET_ADMIN, in an application container


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Prefixes of the images that an author may name, if `authors.allow.image` is set; empty means any."""

    allowed: tuple[Annotated[str, Field(min_length=1)], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The serving process. Not part of `hash`."""

    address: str = "::"
    port: Port = 8443
    metrics_port: Port = 9090
    tls_directory: str = "/etc/envoy-sidecar-webhook/tls"
    published_file: str = ""  # lists the bootstraps that are in every namespace; unready until ours is; "": ask nobody
    client_ca_file: str = ""  # PEM; only clients with a certificate of these CAs are admitted; "": everybody
    client_names: tuple[str, ...] = ()  # and with one of these names; (): any name
    # A connection comes to take up to 300 KB (scripts/soak connections), and the pod has 256 MiB.
    max_connections: Annotated[int, Field(ge=32, le=65536)] = 512
    max_handshakes: Annotated[int, Field(ge=16, le=65536)] = 384
    handshake_seconds: Limit = 5
    request_seconds: Limit = 5  # what the registration gives for all of it
    answer_seconds: Limit = 60
    keep_alive_seconds: Limit = 120  # the API server's client keeps 90
    shutdown_grace_seconds: Seconds = 10  # unready, still serving: until no endpoint points here any more
    drain_seconds: Seconds = 15
    log_format: Literal["json", "text"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, kw_only=True, eq=False)
class Settings:
    """All of the operator's settings. Compared by identity: a process has one."""

    # Holds for the sections too: written in camelCase, as Kubernetes does, and nothing unknown.
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid", alias_generator=to_camel)

    sidecar: Annotated[Sidecar, AfterValidator(_form_fits_mode)] = field(default_factory=Sidecar)
    init: Init = field(default_factory=Init)
    redirect: Redirect = field(default_factory=Redirect)
    authors: Authors = field(default_factory=Authors)
    images: Images = field(default_factory=Images)
    unknown_annotations: Literal["warn", "reject"] = "warn"  # an unknown key under our prefix
    bootstrap: Bootstrap = field(default_factory=Bootstrap)
    server: Server = field(default_factory=Server)
    controlplane: ControlPlane = field(default_factory=ControlPlane)  # read only to be checked

    @property
    def bootstrap_hash(self) -> str:
        """Which bootstrap its pods name."""
        return content_hash(self.bootstrap)

    @cached_property
    def hash(self) -> str:
        """Ten hexadecimal digits that change with everything that decides what a pod looks like."""
        decisive = {name: value for name, value in asdict(self).items() if name not in ("server", "controlplane")}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:10]


_ADAPTER = TypeAdapter(Settings)


def load(path: Path) -> Settings:
    """The settings in the file at `path`.

    Raises SettingsError with every problem, an unreadable file among them.
    """
    try:
        with path.open("rb") as file:
            return parse(file.read(MAX_BYTES + 1), str(path))
    except OSError as error:
        raise SettingsError(str(path), [f"cannot be read: {error.strerror}"]) from None


def parse(text: str | bytes, source: str) -> Settings:
    """The settings in `text` (YAML); `source` names it in errors. Raises SettingsError with every problem."""
    if len(text) > MAX_BYTES:
        raise SettingsError(source, [f"larger than {MAX_BYTES} bytes"])
    try:
        whole = text.decode() if isinstance(text, bytes) else text
        raw = documents.load(Document(number=1, line=1, text=whole))
    except (MalformedDocument, UnicodeDecodeError) as error:
        raise SettingsError(source, [f"is no YAML: {error}"]) from None
    if not isinstance(raw, Mapping):
        raise SettingsError(source, ["is no mapping; write at least one section, such as `sidecar:`"])
    try:
        return _ADAPTER.validate_python(raw)
    except ValidationError as error:
        raise SettingsError(source, [_describe(problem) for problem in error.errors()]) from None


def _describe(problem: Mapping[str, Any]) -> str:
    path = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        known = [to_camel(name) for name in _known(problem["loc"][:-1])]
        return f"{path}: no such setting{values.did_you_mean(str(problem['loc'][-1]), known)}"
    message = problem["msg"].removeprefix("Value error, ")
    shown = values.quote(str(problem["input"])) if problem["type"] != "missing" else "nothing"
    return f"{path}: {shown}: {message[0].lower()}{message[1:]}"


def _known(path: tuple[int | str, ...]) -> list[str]:
    """The names that the section at `path` knows."""
    section: Any = Settings()
    for step in path:
        name = next((name for name in section.__dataclass_fields__ if to_camel(name) == step), "")
        section = getattr(section, name, None)
        if not hasattr(section, "__dataclass_fields__"):
            return []
    return list(section.__dataclass_fields__)
