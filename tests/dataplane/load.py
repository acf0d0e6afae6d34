"""Load from inside a pod's network: a few threads, each with a connection that it keeps."""

import http.client
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from statistics import mean

from tests.dataplane.lab import Pod
from tests.dataplane.told import CLUSTER_IP


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one request."""

    status: int
    body: str
    seconds: float


def load(
    pod: Pod, *, threads: int, each: int, path: str = "/", method: str = "GET", rate: float | None = None
) -> list[Answer]:
    """Each of so many threads asks orders so many times, one after another, through the sidecar of `pod`.

    `{}` in the path is another word in each request; `rate` requests a second begin at most, in all.
    """
    apart = threads / rate if rate else 0

    def one(thread: int) -> list[Answer]:
        began = time.monotonic() + apart * thread / threads
        with closing(http.client.HTTPConnection(CLUSTER_IP, 80, timeout=30)) as connection:
            answers = []
            for number in range(each):
                time.sleep(max(0, began + apart * number - time.monotonic()))
                answers.append(_ask(connection, method, path.format(f"{thread}-{number}")))
            return answers

    def all_of_them() -> list[Answer]:
        with ThreadPoolExecutor(threads) as pool:
            return [answer for answers in pool.map(one, range(threads)) for answer in answers]

    return pod.call(all_of_them)


def _ask(connection: http.client.HTTPConnection, method: str, path: str) -> Answer:
    began = time.perf_counter()
    connection.request(method, path, headers={"Host": "orders"})
    with connection.getresponse() as response:
        body = response.read().decode()
    return Answer(response.status, body, time.perf_counter() - began)


def mean_milliseconds(answers: Sequence[Answer]) -> float:
    return 1000 * mean(answer.seconds for answer in answers)
