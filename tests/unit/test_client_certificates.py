"""Client certificates: with a CA for them in the settings, only who shows one of it is admitted."""

import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests import build
from tests.apiserver.processes import eventually
from tests.clients import ClientAuthority, Shown
from tests.serving import JSON, TIMEOUT, Answer, Server, exchange, run, serving

REVIEW = json.dumps(build.review())
RELOADS = "envoy_sidecar_webhook_certificate_reloads_total"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> ClientAuthority:
    return ClientAuthority(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, authority: ClientAuthority) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), settings(authority.certificate)) as one:
        yield one


@pytest.fixture(scope="module")
def choosy(tmp_path_factory: pytest.TempPathFactory, authority: ClientAuthority) -> Iterator[Server]:
    names = "[kube-apiserver, apiserver.example]"
    with serving(tmp_path_factory.mktemp("choosy"), settings(authority.certificate, names)) as one:
        yield one


def settings(client_ca: Path, names: str = "[]") -> str:
    return f"server: {{clientCaFile: {client_ca}, clientNames: {names}, shutdownGraceSeconds: 0}}"


def client(server: Server, shown: Shown | None = None) -> HTTPSConnection:
    context = server.context()
    if shown:
        context.load_cert_chain(shown.certificate, shown.key)
    return HTTPSConnection("localhost", server.port, context=context, timeout=TIMEOUT)


def post(server: Server, shown: Shown | None = None, path: str = "/inject") -> Answer:
    with closing(client(server, shown)) as connection:
        return exchange(connection, "POST", path, REVIEW, JSON)


def test_who_shows_a_certificate_of_the_ca_is_admitted(server: Server, authority: ClientAuthority) -> None:
    assert post(server, authority.issue("anybody")).response["allowed"]


@pytest.mark.parametrize("path", ["/inject", "/inject/restricted", "/advise"])
def test_who_shows_none_is_refused_and_told_what_is_missing(server: Server, path: str) -> None:
    refused = post(server, path=path)
    assert refused.status == 403
    assert b"server.clientCaFile" in refused.body


def test_a_refusal_is_counted_and_logged_like_any_other_failure(server: Server) -> None:
    before = server.metric("envoy_sidecar_webhook_admissions_total", reason="no_client_certificate")
    post(server)
    assert server.metric("envoy_sidecar_webhook_admissions_total", reason="no_client_certificate") == before + 1
    assert server.events("admission")[-1]["reason"] == "no_client_certificate"


def test_a_kubelet_that_shows_none_gets_its_answer(server: Server) -> None:
    assert server.request("GET", "/readyz").status == 200


def test_who_shows_a_certificate_of_another_ca_gets_no_connection(server: Server, tmp_path: Path) -> None:
    stranger = ClientAuthority(tmp_path).issue("stranger")
    with pytest.raises(OSError):  # noqa: PT011  in TLS 1.3 it comes with the first answer, or as a reset
        post(server, stranger)


def test_a_certificate_that_has_ended_gets_no_connection(server: Server, authority: ClientAuthority) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        post(server, authority.issue("late", lifetime=timedelta(hours=-1)))


def test_a_certificate_for_serving_only_gets_no_connection(server: Server, authority: ClientAuthority) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        post(server, authority.issue("server", usage=ExtendedKeyUsageOID.SERVER_AUTH))


def test_a_common_name_in_the_settings_is_admitted(choosy: Server, authority: ClientAuthority) -> None:
    assert post(choosy, authority.issue("kube-apiserver")).status == 200


def test_an_alternative_name_in_the_settings_is_admitted(choosy: Server, authority: ClientAuthority) -> None:
    assert post(choosy, authority.issue("other", alternative="apiserver.example")).status == 200


def test_another_name_is_refused(choosy: Server, authority: ClientAuthority) -> None:
    assert post(choosy, authority.issue("pod-in-the-cluster")).status == 403


def test_without_the_setting_whatever_is_shown_is_nobodys_business(tmp_path: Path) -> None:
    stranger = ClientAuthority(tmp_path / "clients").issue("stranger")
    with serving(tmp_path) as server:
        assert post(server, stranger).status == 200


def test_another_ca_is_taken_within_seconds_without_a_restart(tmp_path: Path) -> None:
    former, latter = ClientAuthority(tmp_path / "former"), ClientAuthority(tmp_path / "latter")
    with serving(tmp_path, settings(former.certificate)) as server:
        kept = client(server, former.issue("kept"))
        with closing(kept):
            assert exchange(kept, "POST", "/inject", REVIEW, JSON).status == 200
            latter.certificate.replace(former.certificate)
            eventually(lambda: server.metric(RELOADS, result="success") == 1, "it is taken")
            assert post(server, latter.issue("new")).status == 200
            with pytest.raises(OSError):  # noqa: PT011
                post(server, former.issue("old"))
            assert exchange(kept, "POST", "/inject", REVIEW, JSON).status == 200


@pytest.mark.parametrize("content", ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_broken_ca_leaves_the_former_one_in_place(tmp_path: Path, content: str) -> None:
    authority = ClientAuthority(tmp_path / "clients")
    shown = authority.issue("kube-apiserver")
    with serving(tmp_path, settings(authority.certificate)) as server:
        authority.certificate.write_text(content)
        (event,) = eventually(lambda: server.events("certificate refused"), "it is logged")
        assert str(authority.certificate) in event["problem"]
        assert post(server, shown).status == 200
        assert post(server).status == 403


def test_a_ca_that_is_missing_at_the_start_ends_with_code_2(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(settings(tmp_path / "nowhere"))
    with serving(tmp_path / "other") as server:
        tls = server.certificate
    ended = run("--settings", str(tmp_path / "settings.yaml"), "--tls-dir", str(tls), "--port", "0")
    assert (ended.returncode, "nowhere: cannot be read" in ended.stderr) == (2, True)


def test_names_without_a_ca_end_with_code_2(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("server: {clientNames: [kube-apiserver]}")
    ended = run("--settings", str(tmp_path / "settings.yaml"))
    assert (ended.returncode, "--client-ca" in ended.stderr) == (2, True)


def test_the_ca_may_be_an_option_of_the_command(tmp_path: Path, authority: ClientAuthority) -> None:
    names = "server: {clientNames: [named], shutdownGraceSeconds: 0}"
    with serving(tmp_path, names, "--client-ca", str(authority.certificate)) as server:
        assert post(server).status == 403
        assert post(server, authority.issue("named")).status == 200


def test_tls_1_2_carries_certificates_too(server: Server, authority: ClientAuthority) -> None:
    context, shown = server.context(), authority.issue("old-fashioned")
    context.load_cert_chain(shown.certificate, shown.key)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with closing(HTTPSConnection("localhost", server.port, context=context, timeout=TIMEOUT)) as connection:
        assert exchange(connection, "POST", "/inject", REVIEW, JSON).status == 200
