"""app: what each path answers, and what the log and the metrics say of it."""

import asyncio
import json
import logging
from typing import Any, cast

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import build
from webhook.app import ENDPOINTS, State, create, create_metrics, handle
from webhook.errors import MalformedReview
from webhook.metrics import Metrics
from webhook.settings import Settings

SETTINGS = Settings()
DEPLOYMENT = {"group": "apps", "version": "v1", "kind": "Deployment"}


def handled(path: str, review: dict[str, Any], settings: Settings = SETTINGS) -> tuple[dict[str, Any], Any]:
    body, facts = handle(path, json.dumps(review).encode(), settings)
    response: dict[str, Any] = json.loads(body)["response"]
    return response, facts


def deployment(annotations: dict[str, str] | None = None) -> dict[str, Any]:
    template = build.pod(annotations)
    spec = {"template": {"metadata": template["metadata"], "spec": template["spec"]}}
    document = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}
    return build.review(document, kind=DEPLOYMENT, name="web")


class Client:
    """Sends requests to an application, in this process."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.metrics = Metrics("abc")
        self.state = State()
        self.app = create(settings, self.metrics, self.state)
        self.monitoring = create_metrics(self.metrics, self.state)

    def send(self, method: str, path: str, content: str = "", app: Any = None, **headers: str) -> httpx.Response:
        async def exchange() -> httpx.Response:
            transport = httpx.ASGITransport(app=app or self.app)
            async with httpx.AsyncClient(transport=transport, base_url="https://webhook") as client:
                return await client.request(method, path, content=content, headers=headers)

        return asyncio.run(exchange())

    def post(self, review: dict[str, Any], path: str = "/inject") -> httpx.Response:
        return self.send("POST", path, json.dumps(review), **{"content-type": "application/json"})

    def count(self, **labels: str) -> float:
        families = text_string_to_metric_families(self.metrics.page().decode())
        samples = [s for f in families for s in f.samples if s.name == "envoy_sidecar_webhook_admissions_total"]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


# Paths


def test_a_pod_gets_its_sidecar_on_inject() -> None:
    response, facts = handled("/inject", build.review())
    assert response["patchType"] == "JSONPatch"
    assert (facts.decision, facts.reason) == ("injected", "added")


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_the_path_says_the_pod_security_level_of_the_namespace(level: str) -> None:
    response, facts = handled(f"/inject/{level}", build.review())
    assert (response["allowed"], facts.reason) == (False, "pod_security")
    assert level in response["status"]["message"]


def test_advice_never_refuses_and_warns_of_what_the_pods_will_be_told() -> None:
    response, facts = handled("/advise", deployment({"mode": "banana"}))
    assert response["allowed"]
    assert "banana" in response["warnings"][0]
    assert (facts.decision, facts.reason) == ("rejected", "bad_annotation")


@pytest.mark.parametrize("level", ["baseline", "restricted"])
def test_advice_knows_the_level_too(level: str) -> None:
    response, _ = handled(f"/advise/{level}", deployment())
    assert level in "".join(response["warnings"])


def test_advice_on_a_workload_without_a_problem_is_silent() -> None:
    response, facts = handled("/advise", deployment())
    assert "warnings" not in response
    assert "patch" not in response
    assert facts.decision == "injected"


def test_advice_on_what_makes_no_pods_is_silent() -> None:
    review = build.review({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}})
    response, facts = handled("/advise", review)
    assert (response["allowed"], facts.reason) == (True, "no_pods")


@pytest.mark.parametrize("path", ENDPOINTS)
def test_every_answer_echoes_the_uid(path: str) -> None:
    response, facts = handled(path, build.review(uid="u-1"))
    assert (response["uid"], facts.uid) == ("u-1", "u-1")


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_dry_run_is_answered_like_a_real_one(path: str) -> None:
    assert handled(path, build.review(dryRun=True)) == handled(path, build.review(dryRun=False))


def test_the_creation_of_no_pod_at_all_is_malformed() -> None:
    with pytest.raises(MalformedReview, match="null"):
        handled("/inject", build.review() | {"request": build.review()["request"] | {"object": None}})


# Facts


def test_the_owner_is_the_controller_of_the_pod() -> None:
    _, facts = handled("/inject", build.review(build.owned_by("Job", build.pod())))
    assert facts.owner == "Job/web"


def test_a_pod_of_nobody_is_its_own_owner() -> None:
    pod = build.pod()
    assert handled("/inject", build.review(pod))[1].owner == "Pod/web-1"
    pod["metadata"] = {"generateName": "web-"}
    assert handled("/inject", build.review(pod))[1].owner == "Pod/web-"


def test_the_owner_on_advise_is_the_workload() -> None:
    assert handled("/advise", deployment())[1].owner == "Deployment/web"


def test_one_line_tells_what_became_of_an_admission(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "webhook")
    Client().post(build.review(build.owned_by("ReplicaSet", build.pod()), uid="u-1"))
    (record,) = caplog.records
    facts = cast(Any, record).facts
    assert facts.pop("milliseconds") > 0
    assert facts == {
        "endpoint": "inject",
        "decision": "injected",
        "reason": "added",
        "namespace": "shop",
        "owner": "ReplicaSet/web",
        "uid": "u-1",
    }


def test_a_crash_of_ours_is_answered_with_500_and_no_review(caplog: pytest.LogCaptureFixture) -> None:
    """What the API server then does is failurePolicy's business; an AdmissionReview would decide it."""
    client = Client(settings=cast(Settings, None))
    answer = client.post(build.review())
    assert answer.status_code == 500
    assert "AdmissionReview" not in answer.text
    assert client.count(decision="failed", reason="crash") == 1
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["crash"]


# Metrics


def test_an_admission_is_counted_by_decision_and_reason() -> None:
    client = Client()
    client.post(build.review())
    client.post(build.review())
    client.post(build.review(build.pod({"mode": "banana"})))
    client.post(deployment(), "/advise")
    assert client.count(endpoint="inject", decision="injected", reason="added") == 2
    assert client.count(endpoint="inject", decision="rejected", reason="bad_annotation") == 1
    assert client.count(endpoint="advise", decision="injected") == 1


def test_a_request_that_fails_is_counted_by_its_reason() -> None:
    client = Client()
    client.send("POST", "/inject", "{}", **{"content-type": "application/json"})
    client.send("POST", "/inject", "{}")
    assert client.count(decision="failed", reason="malformed") == 1
    assert client.count(decision="failed", reason="unsupported_media_type") == 1


def test_the_page_of_the_metrics_port_is_what_prometheus_reads() -> None:
    client = Client()
    answer = client.send("GET", "/metrics", app=client.monitoring)
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "envoy_sidecar_webhook_admissions_in_flight 0.0" in answer.text


# Health


@pytest.mark.parametrize("port", ["app", "monitoring"])
def test_a_stopping_replica_is_alive_and_unready(port: str) -> None:
    client = Client()
    app = getattr(client, port)
    assert client.send("GET", "/readyz", app=app).status_code == 200
    client.state.stopping = True
    assert client.send("GET", "/readyz", app=app).status_code == 503
    assert client.send("GET", "/healthz", app=app).status_code == 200


def test_a_replica_whose_bootstrap_is_not_in_every_namespace_is_unready_and_says_so() -> None:
    client = Client()
    client.state.unpublished = "0123456789"
    answer = client.send("GET", "/readyz")
    assert (answer.status_code, "bootstrap 0123456789 is not in every namespace" in answer.text) == (503, True)
    assert client.send("GET", "/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_nothing_documents_itself_to_the_network(path: str) -> None:
    assert Client().send("GET", path).status_code == 404
