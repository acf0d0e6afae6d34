"""Certificate files that go wrong under a running server: the former pair stays, and the next good one is taken."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests import build
from tests.apiserver.processes import eventually
from tests.mounted import renew
from tests.serving import JSON, TIMEOUT, Server, exchange, serving
from webhook.errors import CertificateError
from webhook.tls import Certificate

REVIEW = json.dumps(build.review())
RELOADS = "envoy_sidecar_webhook_certificate_reloads_total"
CURRENT = "envoy_sidecar_webhook_certificate_last_reload_successful"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    renew(directory / "tls")
    with serving(directory) as one:
        yield one


def files(mounted: Path) -> Path:
    """Where the files are now."""
    return (mounted / "..data").resolve()


def tear(mounted: Path) -> None:
    renewed = mounted.parent / "renewed"
    renew(renewed)
    (renewed / "tls.crt").resolve().replace(files(mounted) / "tls.crt")


def swap(mounted: Path) -> None:
    certificate, key = files(mounted) / "tls.crt", files(mounted) / "tls.key"
    content = certificate.read_bytes()
    certificate.write_bytes(key.read_bytes())
    key.write_bytes(content)


def make_a_directory(mounted: Path) -> None:
    (files(mounted) / "tls.key").unlink()
    (files(mounted) / "tls.key").mkdir()


def make_a_loop(mounted: Path) -> None:
    (mounted / "..data_tmp").symlink_to("..data")
    (mounted / "..data_tmp").replace(mounted / "..data")


SPOILT: dict[str, Callable[[Path], object]] = {
    "a new certificate beside the former key": tear,
    "certificate and key in each other's file": swap,
    "an empty certificate": lambda mounted: (files(mounted) / "tls.crt").write_bytes(b""),
    "an empty key": lambda mounted: (files(mounted) / "tls.key").write_bytes(b""),
    "half a key": lambda mounted: os.truncate(files(mounted) / "tls.key", 100),
    "no certificate": lambda mounted: (files(mounted) / "tls.crt").unlink(),
    "no key": lambda mounted: (files(mounted) / "tls.key").unlink(),
    "no files at all": lambda mounted: (mounted / "..data").unlink(),
    "a directory for a file": make_a_directory,
    "a link to itself": make_a_loop,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_the_former_pair_is_served_until_the_files_are_right_again(
    server: Server, spoil: Callable[[Path], object]
) -> None:
    trust, refused, taken = server.context(), len(server.events("certificate refused")), server.metric(RELOADS)
    with closing(server.client()) as kept:
        assert exchange(kept, "POST", "/inject", REVIEW, JSON).status == 200
        spoil(server.certificate)
        eventually(lambda: server.metric(CURRENT) == 0, "a metric says so")
        assert exchange(kept, "POST", "/inject", REVIEW, JSON).status == 200, "kept connections go on"
        with closing(HTTPSConnection("localhost", server.port, context=trust, timeout=TIMEOUT)) as new:
            assert exchange(new, "POST", "/inject", REVIEW, JSON).status == 200, "new ones get the former pair"
        renew(server.certificate)
        eventually(lambda: server.metric(CURRENT) == 1, "the new pair is taken")
        assert exchange(kept, "POST", "/inject", REVIEW, JSON).status == 200
    assert server.post(REVIEW).status == 200
    assert len(server.events("certificate refused")) == refused + 1
    assert server.metric(RELOADS) == taken + 2


def test_files_that_may_not_be_read_are_a_problem_that_is_told(tmp_path: Path) -> None:
    renew(tmp_path / "tls")
    certificate = Certificate(tmp_path / "tls")
    context = certificate.context
    renew(tmp_path / "tls")
    files(tmp_path / "tls").chmod(0)
    with somebody_else(), pytest.raises(CertificateError, match=r"tls\S*: cannot be read: .*Permission denied"):
        certificate.reload()
    assert certificate.context is context


@contextmanager
def somebody_else() -> Iterator[None]:
    """Root may read everything; so not as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(1000)
    try:
        yield
    finally:
        os.seteuid(user)
