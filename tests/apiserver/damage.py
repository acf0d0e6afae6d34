"""What people and machines do to the Secrets and the published trust of `certs`."""

import base64
from datetime import UTC, datetime, timedelta

from certs.authority import issue_ca
from certs.bundle import Validity
from tests.apiserver.account import MERGE_PATCH, SYSTEM
from tests.apiserver.keeping import REGISTRATIONS, WEBHOOK, Keeping


def spoil(keeping: Keeping, name: str) -> None:
    data = {key: base64.b64encode(b"garbage").decode() for key in keeping.secret(name)}
    path = f"/api/v1/namespaces/{SYSTEM}/secrets/{name}"
    assert keeping.admin.ask("PATCH", path, {"data": data}, MERGE_PATCH, dry=False).status == 200


def delete(keeping: Keeping, *names: str) -> None:
    keeping.cluster.kubectl("delete", "secret", "-n", SYSTEM, *names)


def empty_bundles(keeping: Keeping) -> None:
    for path in REGISTRATIONS:
        keeping.publish(path, "")


def replace_bundles(keeping: Keeping) -> None:
    foreign = issue_ca("another", Validity.starting(datetime.now(UTC), timedelta(days=9)))
    for path in REGISTRATIONS:
        keeping.publish(path, base64.b64encode(foreign.certificate).decode())


def delete_and_empty(keeping: Keeping) -> None:
    delete(keeping, WEBHOOK)
    empty_bundles(keeping)
