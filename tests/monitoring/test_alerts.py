"""Each alert fires when it must, and at no other time: every test names all alerts that are to fire.

A test is a healthy installation, in which one thing is different.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.monitoring import rules
from tests.monitoring.rules import FILES, alerts, promtool

DAY = 24 * 60  # minutes
SECONDS_OF_A_DAY = 86400
HOURS_OF_SAMPLES = 4
N = HOURS_OF_SAMPLES * 60  # samples, one a minute

WEBHOOK, CERTS, CONTROLPLANE = "envoy_sidecar_webhook", "envoy_sidecar_certs", "envoy_sidecar_controlplane"
XDS = f"{CONTROLPLANE}_xds"
ADMISSIONS, DURATIONS = f"{WEBHOOK}_admissions_total", f"{WEBHOOK}_admission_duration_seconds_bucket"
API_SERVER = "apiserver_admission_webhook"
INJECT = 'name="inject.envoy-sidecar.io",type="admit"'


def always(value: float) -> str:
    """The same value in every sample."""
    return f"{value:g}+0x{N}"


def growing(each_minute: float, start: float = 0) -> str:
    return f"{start:g}+{each_minute:g}x{N}"


def once(after: int) -> str:
    """A series that is not there before its first count, after so many minutes."""
    return f"_x{after} 1+0x{N - after}"


def lasting(days: float) -> str:
    """A time of so many days from the start of the test, in seconds since 1970, where tests start."""
    return always(days * SECONDS_OF_A_DAY)


def counted(decision: str, reason: str, replica: str = "a") -> str:
    return f'{ADMISSIONS}{{instance="{replica}",endpoint="inject",decision="{decision}",reason="{reason}"}}'


def durations(seconds: str) -> str:
    return f'{DURATIONS}{{instance="a",endpoint="inject",le="{seconds}"}}'


def calls(seconds: str) -> str:
    return (
        f'{API_SERVER}_admission_duration_seconds_bucket{{{INJECT},operation="CREATE",rejected="false",le="{seconds}"}}'
    )


def expiry(replica: str) -> str:
    return f'{WEBHOOK}_certificate_expiry_timestamp_seconds{{instance="{replica}"}}'


def not_after(kind: str, name: str) -> str:
    return f'{CERTS}_not_after_timestamp_seconds{{instance="c",kind="{kind}",name="{name}"}}'


def trust(target: str) -> str:
    return f'{CERTS}_trust_matches{{instance="c",target="{target}"}}'


def last_reload(replica: str) -> str:
    return f'{WEBHOOK}_certificate_last_reload_successful{{instance="{replica}"}}'


def silence(kind: str) -> str:
    return f'{XDS}_watch_silence_seconds{{instance="e",kind="{kind}"}}'


HEALTHY: Mapping[str, str] = {
    f'{WEBHOOK}_build_info{{instance="a"}}': always(1),
    f'{WEBHOOK}_build_info{{instance="b"}}': always(1),
    expiry("a"): lasting(30),
    expiry("b"): lasting(30),
    last_reload("a"): always(1),
    last_reload("b"): always(1),
    counted("injected", "added"): growing(100),
    counted("rejected", "bad_annotation"): growing(1),
    durations("0.01"): growing(100),
    durations("1"): growing(101),
    durations("2.5"): growing(101),
    durations("+Inf"): growing(101),
    f'{CERTS}_build_info{{instance="c"}}': always(1),
    f'{CERTS}_last_success_timestamp_seconds{{instance="c"}}': growing(60),
    not_after("leaf", "envoy-sidecar-webhook-tls"): lasting(30),
    not_after("ca", "signing"): lasting(365),
    trust("mutating"): always(1),
    trust("validating"): always(1),
    trust("config_maps"): always(1),
    f'{CONTROLPLANE}_bootstrap_info{{instance="e"}}': always(1),
    f'{CONTROLPLANE}_bootstrap_info{{instance="f"}}': always(1),
    silence("service"): always(240),
    f'{XDS}_removal_held_back{{instance="e"}}': always(0),
    f'{CONTROLPLANE}_publication_last_success_timestamp_seconds{{instance="e"}}': growing(60),
    f'{CONTROLPLANE}_publication_refusals_total{{instance="e"}}': always(0),
    calls("0.005"): growing(101),
    calls("1"): growing(101),
    calls("2.5"): growing(101),
    calls("+Inf"): growing(101),
}


def to_orders(metric: str, **labels: str) -> str:
    """A series of one caller's sidecar, about the Service orders of the namespace shop."""
    more = "".join(f',{name}="{value}"' for name, value in labels.items())
    return f'{metric}{{namespace="shop",pod="web-1",envoy_cluster_name="shop/orders_80"{more}}}'


ATTEMPTS, RETRIES = "envoy_cluster_upstream_rq_total", "envoy_cluster_upstream_rq_retry"
BREAKER = "envoy_cluster_circuit_breakers_default"


def without(*beginnings: str) -> Mapping[str, str]:
    """A healthy installation of which the series that begin so are not there."""
    return {name: values for name, values in HEALTHY.items() if not name.startswith(beginnings)}


@dataclass(frozen=True, slots=True)
class Case:
    """After so many minutes of these series, exactly these alerts are firing."""

    minutes: int
    series: Mapping[str, str]
    firing: set[str] = field(default_factory=set)


def differing(minutes: int, series: Mapping[str, str], *firing: str) -> Case:
    """A healthy installation in which these series are different."""
    return Case(minutes, {**HEALTHY, **series}, {f"EnvoySidecar{name}" for name in firing})


CASES = {
    "all is well": Case(200, HEALTHY),
    # Replicas
    "no replica of the webhook can be scraped": Case(3, without(WEBHOOK), {"EnvoySidecarWebhookDown"}),
    "the webhook is away for a minute": Case(1, without(WEBHOOK)),
    "one replica is missing": differing(
        30, {f'{WEBHOOK}_build_info{{instance="b"}}': "1x10 _x200"}, "WebhookReplicaMissing"
    ),
    "one replica restarts": differing(15, {f'{WEBHOOK}_build_info{{instance="b"}}': f"1x10 _x4 1x{N}"}),
    "one replica is scraped twice and the other not at all": Case(
        15,
        {
            **without(f'{WEBHOOK}_build_info{{instance="b"'),
            f'{WEBHOOK}_build_info{{instance="a",job="other"}}': always(1),
        },
        {"EnvoySidecarWebhookReplicaMissing"},
    ),
    # Certificates
    "the certificate was to be renewed three days ago": differing(
        90, {expiry("a"): lasting(6.9)}, "CertificateNotRenewed"
    ),
    "the certificate is about to be renewed": differing(90, {expiry("a"): lasting(9.9)}),
    "the certificate ends within a day": differing(
        90, {expiry("a"): lasting(0.9)}, "CertificateNotRenewed", "CertificateExpiresSoon"
    ),
    "the certificate has ended": differing(
        90, {expiry("a"): lasting(0.01)}, "CertificateNotRenewed", "CertificateExpiresSoon"
    ),
    "a replica goes on with the former certificate": differing(
        10, {last_reload("b"): always(0)}, "CertificateReloadFailing"
    ),
    "a torn pair is whole a minute later": differing(30, {last_reload("b"): f"1x10 0x1 1x{N}"}),
    # Requests
    "one request in fifty fails": differing(40, {counted("failed", "busy"): growing(3)}, "WebhookErrors"),
    "one request in two hundred fails": differing(40, {counted("failed", "malformed"): growing(0.5)}),
    "a single request fails": differing(40, {counted("failed", "malformed"): once(after=20)}),
    "the webhook crashes for the first time": differing(
        21, {counted("failed", "crash"): once(after=20)}, "WebhookCrash"
    ),
    "the webhook crashes once more": differing(21, {counted("failed", "crash"): "1x20 2x200"}, "WebhookCrash"),
    "the webhook crashed an hour ago": differing(80, {counted("failed", "crash"): once(after=20)}),
    "half of the pods are rejected since a few minutes": differing(
        230, {counted("rejected", "conflict"): f"0x199 0+100x{N - 200}"}, "RejectionsAboveNormal"
    ),
    "half of the pods are rejected, as always": differing(230, {counted("rejected", "conflict"): growing(100)}),
    "half of the pods are rejected from the first one": differing(
        25, {counted("rejected", "conflict"): growing(100)}, "RejectionsAboveNormal"
    ),
    "one workload is broken where little happens": differing(
        230,
        {
            counted("injected", "added"): growing(1),
            counted("rejected", "bad_annotation"): always(0),
            counted("rejected", "conflict"): f"0x199 0+1x20 20x{N}",
        },
    ),
    "two requests in a hundred take the webhook two seconds": differing(
        20, {durations("0.01"): growing(98), durations("1"): growing(98)}, "WebhookSlow"
    ),
    "one request in two hundred takes the webhook two seconds": differing(
        20, {durations("0.01"): growing(100.5), durations("1"): growing(100.5)}
    ),
    # What the API server sees
    "the API server does not reach the webhook": differing(
        10,
        {f'{API_SERVER}_rejection_count{{{INJECT},error_type="calling_webhook_error"}}': growing(5)},
        "AdmissionFailing",
    ),
    "the API server cannot apply a patch of ours": differing(
        10,
        {f'{API_SERVER}_rejection_count{{{INJECT},error_type="apiserver_internal_error"}}': growing(5)},
        "AdmissionFailing",
    ),
    "the API server refuses pods because we say so": differing(
        10, {f'{API_SERVER}_rejection_count{{{INJECT},error_type="no_error"}}': growing(5)}
    ),
    "the API server does not reach somebody else's webhook": differing(
        10, {f'{API_SERVER}_rejection_count{{name="x.example.com",error_type="calling_webhook_error"}}': growing(5)}
    ),
    "pods start without having been seen by the webhook": differing(
        10, {f"{API_SERVER}_fail_open_count{{{INJECT}}}": growing(5)}, "FailOpen"
    ),
    "advice does not come": differing(
        10, {f'{API_SERVER}_fail_open_count{{name="advise.envoy-sidecar.io",type="validating"}}': growing(5)}
    ),
    "the API server waits two seconds for one call in fifty": differing(
        20, {calls("0.005"): growing(98), calls("1"): growing(98)}, "AdmissionSlow"
    ),
    # Certs
    "nobody looks after certificates": Case(20, without(CERTS), {"EnvoySidecarCertsDown"}),
    "certs is rolled out": Case(10, without(CERTS)),
    "no round succeeds": differing(
        90, {f'{CERTS}_last_success_timestamp_seconds{{instance="c"}}': f"0+60x30 1800x{N}"}, "CertsFailing"
    ),
    "no round has ever succeeded": differing(
        30, {f'{CERTS}_last_success_timestamp_seconds{{instance="c"}}': always(0)}, "CertsFailing"
    ),
    "one of two replicas makes no rounds, the other does": differing(
        90, {f'{CERTS}_last_success_timestamp_seconds{{instance="d"}}': always(0)}
    ),
    "the API server is away for ten minutes": differing(
        40, {f'{CERTS}_last_success_timestamp_seconds{{instance="c"}}': f"0+60x30 1800x{N}"}
    ),
    "a leaf is not renewed": differing(
        90, {not_after("leaf", "envoy-sidecar-controlplane-tls"): lasting(6)}, "CertsNotRenewing"
    ),
    "the CA is not renewed": differing(90, {not_after("ca", "signing"): lasting(59)}, "CertsNotRenewing"),
    "the CA is about to be renewed": differing(90, {not_after("ca", "signing"): lasting(119)}),
    "the caBundle does not verify what is served": differing(5, {trust("mutating"): always(0)}, "TrustMismatch"),
    "the caBundle was overwritten and put right": differing(30, {trust("mutating"): f"1x10 0x1 1x{N}"}),
    # Control plane
    "there is no control plane": Case(6, without(CONTROLPLANE), {"EnvoySidecarControlplaneDown"}),
    "the control plane is away for some minutes": Case(4, without(CONTROLPLANE)),
    "one replica of the control plane is missing": Case(
        15, without(f'{CONTROLPLANE}_bootstrap_info{{instance="f"'), {"EnvoySidecarControlplaneReplicaMissing"}
    ),
    "one replica of the control plane is rolled out": differing(
        60, {f'{CONTROLPLANE}_bootstrap_info{{instance="f"}}': f"1x20 _x5 1x{N}"}
    ),
    "nothing is heard of Services": differing(30, {silence("service"): growing(60)}, "WatchSilent"),
    "the API server is away for some minutes": differing(30, {silence("service"): f"0+60x12 0x{N}"}),
    "much is gone at once, and nobody says anything": differing(
        10, {f'{XDS}_removal_held_back{{instance="e"}}': always(1)}, "RemovalHeldBack"
    ),
    "much is gone at once, as is meant": differing(30, {f'{XDS}_removal_held_back{{instance="e"}}': f"0x5 1x3 0x{N}"}),
    "no bootstrap gets published": differing(
        90,
        {f'{CONTROLPLANE}_publication_last_success_timestamp_seconds{{instance="e"}}': f"0+60x30 1800x{N}"},
        "PublicationFailing",
    ),
    "a namespace refuses its bootstrap": differing(
        30, {f'{CONTROLPLANE}_publication_refusals_total{{instance="e"}}': growing(1)}, "BootstrapRefused"
    ),
    "proxies do not take a resource": differing(
        30, {f'{XDS}_rejected_resources{{instance="e",type="cluster"}}': always(1)}, "ConfigurationRejected"
    ),
    "proxies took it when it had changed": differing(
        30, {f'{XDS}_rejected_resources{{instance="e",type="cluster"}}': f"1x8 0x{N}"}
    ),
    "proxies are refused": differing(
        45, {f'{XDS}_refusals_total{{instance="e",reason="expired"}}': growing(2)}, "ProxiesRefused"
    ),
    "a pod that is gone was refused": differing(
        45, {f'{XDS}_refusals_total{{instance="e",reason="invalid"}}': once(10)}
    ),
    "the API server cannot be asked whose tokens they are": differing(
        45, {f'{XDS}_refusals_total{{instance="e",reason="unavailable"}}': growing(20)}
    ),
    "a world is not taken over": differing(
        30, {f'{XDS}_snapshot_failures_total{{instance="e"}}': growing(1)}, "WorldNotTakenOver"
    ),
    "the control plane's renewed certificate cannot be served": differing(
        30,
        {f'{XDS}_certificate_last_reload_successful{{instance="e"}}': always(0)},
        "DiscoveryCertificateReloadFailing",
    ),
    # Services
    "one retry in ten is refused": differing(
        30,
        {
            to_orders(ATTEMPTS): growing(120),
            to_orders(RETRIES): growing(20),
            to_orders(f"{RETRIES}_overflow"): growing(10),
        },
        "RetryBudgetSpent",
    ),
    "one retry in a hundred is refused": differing(
        30, {to_orders(ATTEMPTS): growing(100), to_orders(f"{RETRIES}_overflow"): growing(1)}
    ),
    "a Service is called and nothing fails": differing(30, {to_orders(ATTEMPTS): growing(100)}),
    "retries are refused while a Service is rolled out": differing(
        30, {to_orders(ATTEMPTS): growing(100), to_orders(f"{RETRIES}_overflow"): f"0x10 0+50x3 150x{N}"}
    ),
    "a caller is at its limit of requests": differing(
        30, {to_orders(f"{BREAKER}_rq_open"): always(1), to_orders(f"{BREAKER}_cx_open"): always(0)}, "CircuitOpen"
    ),
    "a caller is at its limit of connections": differing(
        30, {to_orders(f"{BREAKER}_cx_open"): always(1)}, "CircuitOpen"
    ),
    "a caller has many requests waiting": differing(
        30, {to_orders(f"{BREAKER}_rq_pending_open"): always(1)}, "CircuitOpen"
    ),
    "a caller meets its limit now and then": differing(30, {to_orders(f"{BREAKER}_rq_open"): f"0x9 1x1 0x9 1x1 0x{N}"}),
    "a limit of what is no Service is met": differing(
        30, {f'{BREAKER}_rq_open{{namespace="shop",pod="web-1",envoy_cluster_name="inbound"}}': always(1)}
    ),
}


@pytest.mark.parametrize("when", CASES)
def test_exactly_these_alerts_fire_when(when: str, tmp_path: Path) -> None:
    case = CASES[when]
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(case.firing)]
    firing = 'group by (alertname) (ALERTS{alertstate="firing"})'
    asked = {"expr": firing, "eval_time": f"{case.minutes}m", "exp_samples": expected}
    assert rules.run(tmp_path, case.series, promql_expr_test=[asked]) == ""


def recorded(directory: Path, series: Mapping[str, str], **values: float) -> str:
    """What is wrong with these records of orders, after two hours of these series."""
    asked = [
        {
            "expr": f"round(service:envoy_sidecar_{name.replace('__', ':')}, 0.001)",
            "eval_time": "120m",
            "exp_samples": [{"labels": '{destination_namespace="shop",destination_service="orders"}', "value": value}],
        }
        for name, value in values.items()
    ]
    return rules.run(directory, series, promql_expr_test=asked)


def test_the_budget_that_is_spent_is_of_all_callers_and_ports_of_a_service(tmp_path: Path) -> None:
    """Two callers: 60 attempts a minute of which 10 are retries, and 60 of which none is."""
    other = {"namespace": "accounts", "pod": "a-1", "envoy_cluster_name": "shop/orders_81"}
    labels = ",".join(f'{name}="{value}"' for name, value in other.items())
    series = {
        to_orders(ATTEMPTS): growing(60),
        to_orders(RETRIES): growing(10),
        f"{ATTEMPTS}{{{labels}}}": growing(60),
        to_orders("envoy_cluster_upstream_rq_xx", envoy_response_code_class="5"): growing(6),
    }
    values = {
        "requests__rate5m": 1.833,
        "errors__rate5m": 0.1,
        "retries_per_request__ratio_rate5m": 0.091,
        "retry_budget_spent__ratio_rate5m": 0.455,
        "retry_budget_spent__ratio_rate1h": 0.455,
    }
    assert recorded(tmp_path, series, **values) == ""


def test_a_service_with_a_budget_of_its_own_spends_that(tmp_path: Path) -> None:
    budget = "envoy_sidecar_controlplane_service_retry_budget_ratio"
    of = 'destination_namespace="shop",destination_service="orders"'
    series = {
        to_orders(ATTEMPTS): growing(66),
        to_orders(RETRIES): growing(6),
        f'{budget}{{instance="a",{of}}}': always(0.5),
        f'{budget}{{instance="b",{of}}}': always(0.5),
    }
    values = {"retry_budget_spent__ratio_rate5m": 0.2, "retry_budget_spent__ratio_rate1h": 0.2}
    assert recorded(tmp_path, series, **values) == ""


def test_a_service_that_nobody_has_to_call_again_has_spent_nothing(tmp_path: Path) -> None:
    assert recorded(tmp_path, {to_orders(ATTEMPTS): growing(60)}, retry_budget_spent__ratio_rate5m=0) == ""


def test_what_passed_through_is_named_if_it_is_a_services(tmp_path: Path) -> None:
    passed, info = "envoy_cluster_endpoint_rq_total", "envoy_sidecar_controlplane_service_info"
    of = 'namespace="shop",pod="web-1",envoy_cluster_name="passthrough"'
    whose = 'envoy_endpoint_address="10.96.0.7:80",destination_namespace="accounts",destination_service="users"'
    series = {
        f'{passed}{{{of},envoy_endpoint_address="10.96.0.7:80"}}': growing(60),
        f'{passed}{{{of},envoy_endpoint_address="93.184.215.14:443"}}': growing(60),
        f'{info}{{instance="a",{whose}}}': always(1),
        f'{info}{{instance="b",{whose}}}': always(1),
    }
    labels = '{namespace="shop",pod="web-1",destination_namespace="accounts",destination_service="users"}'
    name = "pod_service:envoy_sidecar_passed_through:rate5m"
    expected = [{"labels": f"{name}{labels}", "value": 1}]
    asked = {"expr": name, "eval_time": "30m", "exp_samples": expected}
    assert rules.run(tmp_path, series, promql_expr_test=[asked]) == ""


def test_prometheus_understands_every_panel(tmp_path: Path) -> None:
    records = [
        {"record": f"panel:{number}", "expr": one}
        for number, one in enumerate(one for found in rules.panels().values() for one in found)
    ]
    file = tmp_path / "panels.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    done = promtool("check", "rules", str(file))
    assert done.returncode == 0, done.stdout


def test_every_alert_is_among_those_that_fire_above() -> None:
    assert {name for case in CASES.values() for name in case.firing} == set(alerts())


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    done = promtool("check", "rules", *(str(tmp_path / name) for name in rules.write(tmp_path)))
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("SUCCESS") == len(FILES)


def test_an_alert_says_what_is_wrong_where_and_what_to_do(tmp_path: Path) -> None:
    """One with numbers and labels in its text, as people read it."""
    name = "EnvoySidecarCertificateExpiresSoon"
    text = alerts()[name]["annotations"]
    filled = (
        text["description"]
        .replace("{{ $labels.instance }}", "a")
        .replace("{{ $value | humanizeDuration }}", "22h 0m 0s")
    )
    asked = {
        "eval_time": "120m",
        "alertname": name,
        "exp_alerts": [
            {
                "exp_labels": {"severity": "critical", "instance": "a"},
                "exp_annotations": {**text, "description": filled},
            }
        ],
    }
    series = {**HEALTHY, expiry("a"): lasting(1)}
    assert rules.run(tmp_path, series, alert_rule_test=[asked]) == ""
