"""CA and certificates are replaced again and again under admissions, and a real Envoy goes on: nothing fails.

Two `certs` with the rights of their account, two replicas of the webhook behind one address, the real API server, which
calls them by their Service's name, and an Envoy that takes its trust from the ConfigMap of an opted-in namespace. What
is mounted follows the API as a kubelet would have it: servers see at once what is new, clients as late as is allowed.
"""

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests import envoy
from tests.apiserver.account import SYSTEM
from tests.apiserver.balancer import balanced
from tests.apiserver.cluster import Object
from tests.apiserver.creator import creating
from tests.apiserver.injector import Replica, manifests, replica, settings
from tests.apiserver.keeping import HOST, WEBHOOK, Keeping, Process, installed, mounting
from tests.apiserver.objects import namespace, pod, service_account
from tests.apiserver.processes import eventually, free_port, running
from tests.soak.table import Row, at_least, at_most

CLIENTS = 16
PACE = 1.02  # of the promised rate: at its end each client waits for an answer
SHOP = "shop"
HELD, FRESH = "held", "fresh"  # one connection for all requests, or one for each
LATE = 0.75  # of the publication delay: when a published trust reaches a pod
DAY_SECONDS = 86400
FILTERS = "type.googleapis.com/envoy.extensions.filters"


@dataclass(frozen=True, slots=True)
class Plan:
    rotations: int
    rate: int  # admissions per second
    delay: int  # seconds, of publication
    leaf: int  # seconds
    ca: int  # seconds

    @property
    def options(self) -> list[str]:
        days = {"--leaf-days": self.leaf / DAY_SECONDS, "--ca-days": self.ca / DAY_SECONDS}
        seconds = {"--publication-delay-seconds": self.delay, "--period-seconds": 1}
        return [part for name, value in (days | seconds).items() for part in (name, str(value))]


LONG = Plan(rotations=5, rate=200, delay=5, leaf=18, ca=45)
SHORT = Plan(rotations=1, rate=50, delay=2, leaf=12, ca=30)


@dataclass(slots=True)
class Traffic:
    """What came back from one kind of client, until it is told to stop."""

    ask: Callable[[], str]  # "" if all is well
    rate: float
    answers: Counter[str] = field(default_factory=Counter)
    seconds: float = 0

    def flow(self, end: threading.Event) -> None:
        began = time.monotonic()
        for number in range(1 << 30):
            if end.wait(max(0.0, began + number / self.rate - time.monotonic())):
                break
            self.answers[self.ask()] += 1
        self.seconds = time.monotonic() - began

    @property
    def failed(self) -> int:
        return self.answers.total() - self.answers[""]


def run(directory: Path, short: bool) -> Iterator[Row]:
    plan = SHORT if short else LONG
    with ExitStack() as stack:
        # The webhook waits for its certificate, the registrations name its address: the address comes first.
        tls, trust = directory / "tls", directory / "trust"
        keeping, writers = _cluster(stack, directory, plan)
        stack.enter_context(mounting(keeping, f"/api/v1/namespaces/{SYSTEM}/secrets/{WEBHOOK}", tls))
        config_map = f"/api/v1/namespaces/{SHOP}/configmaps/envoy-sidecar-ca"
        stack.enter_context(mounting(keeping, config_map, trust, late=LATE * plan.delay))
        replicas, port = _webhooks(stack, keeping, tls)
        client = stack.enter_context(client_of(directory, trust, port))
        admissions = stack.enter_context(_admissions(keeping, plan.rate))
        requests = {name: Traffic(client.asker(name), rate=20) for name in (HELD, FRESH)}
        _flow([*admissions, *requests.values()], lambda: _rotations(writers) > plan.rotations, plan)
        yield from _of_certs(plan, writers)
        yield from _of_admissions(plan, admissions, sum(one.requests() for one in replicas))
        yield from _of_requests(plan, requests, client)


def _cluster(stack: ExitStack, directory: Path, plan: Plan) -> tuple[Keeping, list[Process]]:
    keeping = stack.enter_context(installed(directory))
    keeping.cluster.kubectl("create", "-f", "-", stdin=[namespace(SHOP), service_account(SHOP)])
    return keeping, stack.enter_context(keeping.started(["certs-1", "certs-2"], *plan.options))


def _webhooks(stack: ExitStack, keeping: Keeping, tls: Path) -> tuple[list[Replica], int]:
    """Two replicas once they have a certificate; and the port in front of them, which the API server is told."""
    directory = keeping.cluster.directory
    file = directory / "settings.yaml"
    file.write_text(settings(manifests(keeping.cluster, directory)))
    eventually((tls / "tls.key").exists, "the certificate is mounted")
    replicas: list[Replica] = [
        stack.enter_context(replica(directory / f"webhook-{number}.log", file, tls)) for number in range(2)
    ]
    port = stack.enter_context(balanced(directory / "balancer.log", [one.port for one in replicas]))
    keeping.call_webhook_on(port)
    return replicas, port


@contextmanager
def _admissions(keeping: Keeping, rate: int) -> Iterator[list[Traffic]]:
    """Clients that ask for pods by server-side dry run, once that works."""
    plain = pod()
    with creating(keeping.cluster, SHOP) as creator:
        creator.path += "?dryRun=All"

        def ask() -> str:
            try:
                status = creator.create(plain)
            except OSError as error:
                return type(error).__name__
            return "" if status == http.client.CREATED else str(status)

        eventually(lambda: not ask(), "the API server reaches the webhook")
        yield [Traffic(ask, PACE * rate / CLIENTS) for _ in range(CLIENTS)]


def _flow(traffic: Sequence[Traffic], enough: Callable[[], bool], plan: Plan) -> None:
    end = threading.Event()
    threads = [threading.Thread(target=one.flow, args=(end,)) for one in traffic]
    for thread in threads:
        thread.start()
    try:
        eventually(enough, "the CA has been replaced so often", seconds=3 * plan.ca * (plan.rotations + 1))
        end.wait(plan.delay)  # with the last one
    finally:
        end.set()
        for thread in threads:
            thread.join()


def _rotations(writers: Sequence[Process]) -> int:
    """By the text of their logs: asked so often, parsing them would take from the admissions."""
    return sum(one.log.read_text().count('"event": "step", "step": "promote"') for one in writers)


@dataclass(frozen=True, slots=True)
class Client:
    """An Envoy that verifies the webhook."""

    port: dict[str, int]
    admin: int

    def asker(self, name: str) -> Callable[[], str]:
        def ask() -> str:
            connection = http.client.HTTPConnection("127.0.0.1", self.port[name], timeout=10)
            try:
                connection.request("GET", "/readyz")
                with connection.getresponse() as answer:
                    answer.read()
                    return "" if answer.status == http.client.OK else str(answer.status)
            except (OSError, http.client.HTTPException) as error:
                return type(error).__name__
            finally:
                connection.close()

        return ask

    def made(self, name: str) -> int:
        """How many connections."""
        return self.stat(f"cluster\\.{name}\\.upstream_cx_total")

    def stat(self, name: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=10)
        connection.request("GET", f"/stats?format=json&filter=^{name}$")
        with connection.getresponse() as answer:
            stats = json.loads(answer.read())["stats"]
        connection.close()
        return sum(int(one["value"]) for one in stats)


@contextmanager
def client_of(directory: Path, trust: Path, port: int) -> Iterator[Client]:
    client = Client({HELD: free_port(), FRESH: free_port()}, free_port())
    eventually((trust / "ca.crt").exists, "the trust is mounted")
    sds, config = directory / "sds.yaml", directory / "envoy.yaml"
    sds.write_text(yaml.safe_dump({"resources": [_secret(trust)]}))
    resources = {
        "listeners": [_listener(name, at) for name, at in client.port.items()],
        "clusters": [_upstream(name, port, sds) for name in client.port],
    }
    config.write_text(yaml.safe_dump({"static_resources": resources, "admin": {"address": _address(client.admin)}}))
    command = [str(envoy.binary()), "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
    command += ["--service-node", "client", "--service-cluster", "client", "--log-level", "warning"]
    with running(command, directory / "envoy.log"):
        eventually(lambda: not client.asker(HELD)(), f"Envoy reaches the webhook, see {directory / 'envoy.log'}")
        yield client


def _address(port: int) -> Object:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _secret(trust: Path) -> Object:
    """A trust in a file, read again when the kubelet swaps the folder."""
    context: Object = {
        "trusted_ca": {"filename": str(trust / "ca.crt")},
        "watched_directory": {"path": str(trust)},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": HOST}}],
    }
    kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
    return {"@type": kind, "name": "trust", "validation_context": context}


def _listener(name: str, port: int) -> Object:
    router = f"{FILTERS}.http.router.v3.Router"
    manager: Object = {
        "@type": f"{FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
        "route_config": {
            "virtual_hosts": [
                {"name": name, "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name}}]}
            ]
        },
    }
    return {
        "name": name,
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _upstream(name: str, port: int, sds: Path) -> Object:
    source = {"path_config_source": {"path": str(sds)}, "resource_api_version": "V3"}
    tls: Object = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": HOST,
        "max_session_keys": 0,  # a resumed session would verify nothing
        "common_tls_context": {"validation_context_sds_secret_config": {"name": "trust", "sds_config": source}},
    }
    http: Object = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": {}},
        "common_http_protocol_options": {"max_requests_per_connection": 1} if name == FRESH else {},
    }
    endpoint = {"endpoint": {"address": _address(port)}}
    return {
        "name": name,
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "transport_socket": {"name": "tls", "typed_config": tls},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http},
    }


def _of_certs(plan: Plan, writers: Sequence[Process]) -> Iterator[Row]:
    issued = sum(len(one.steps("issue")) for one in writers)
    yield at_least(f"CAs replaced, {plan.delay} s of publication", _rotations(writers) - 1, plan.rotations)
    yield at_least("certificates issued for both servers", issued, 2 * (plan.rotations + 1))
    yield at_most("steps of certs that failed", sum(len(one.events("step failed")) for one in writers), 0)


def _of_admissions(plan: Plan, admissions: Sequence[Traffic], answered: int) -> Iterator[Row]:
    asked, what = sum(one.answers.total() for one in admissions), "  of them in a second"
    rate = sum(one.answers.total() / one.seconds for one in admissions)
    yield Row("admissions, by server-side dry run", f"{asked:,}")
    if plan is LONG:  # in its short form it shares the machine with other tests
        yield at_least(what, rate, plan.rate)
    else:
        yield Row(what, f"{rate:.0f}")
    yield at_least("  of them answered by the webhook", answered, asked)
    yield at_most("  of them failed", sum(one.failed for one in admissions), 0)


def _of_requests(plan: Plan, requests: dict[str, Traffic], client: Client) -> Iterator[Row]:
    for name, traffic in requests.items():
        yield Row(f"requests through Envoy, {name} connections", f"{traffic.answers.total():,}")
        yield at_most("  of them failed", traffic.failed, 0)
    yield at_most("connections for all that were held", client.made(HELD), 1)
    yield at_least("connections for those that were fresh", client.made(FRESH), requests[FRESH].answers.total())
    yield at_most("connections that Envoy refused to trust", client.stat("cluster\\..*\\.ssl\\.fail_verify.*"), 0)
    taken_up = client.stat(f"cluster\\.{HELD}\\..*ssl_context_update_by_sds")
    yield at_least("times that Envoy took up a new trust", taken_up, plan.rotations)
