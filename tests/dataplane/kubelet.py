"""The kubelet's documented order of start and stop, acted out for one pod.

Init containers run one after the other; a native sidecar among them is up, by its startup probe, before the next. Then
the containers start, each after the postStart hook of the one before. At the end all preStop hooks run at once, each
container gets SIGTERM after its own, and the native sidecars only when the containers have ended, last first.
https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/
https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination
"""

import http.client
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from tests.apiserver.processes import NotReadyError, dying_with_parent, eventually, tail
from tests.dataplane import health
from tests.dataplane.container import Sandbox, command_line, entered
from tests.dataplane.netns import NetNs

Document = Mapping[str, Any]


@dataclass(slots=True)
class Container:
    """A container that runs, and runs again if it ends before its time and its policy says so."""

    spec: Document
    sandbox: Sandbox
    tell: Callable[[str, str], None]
    restarts: bool = False
    process: subprocess.Popen[bytes] | None = None
    exits: list[int] = field(default_factory=list)
    _starting: Lock = field(default_factory=Lock)  # nobody ends what another thread is about to replace
    _stopping: Event = field(default_factory=Event)
    _started: Event = field(default_factory=Event)
    _ended: Event = field(default_factory=Event)

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def log(self) -> Path:
        return self.sandbox.folder / f"{self.name}.log"

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def start(self) -> None:
        # The kernel kills the process when the thread that made it ends: so that thread waits for it.
        Thread(target=self._supervise, daemon=True).start()
        self._started.wait()

    def wait(self, seconds: float) -> int | None:
        """The exit code, once it has ended for good; None after that time."""
        return self.exits[-1] if self._ended.wait(seconds) else None

    def terminate(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL after that time."""
        self.tell(self.name, "SIGTERM")
        with self._starting:
            self._stopping.set()
            if self.process:
                self.process.terminate()
        if self.wait(seconds) is None:
            self.tell(self.name, "SIGKILL")
            self.kill()

    def kill(self) -> None:
        with self._starting:
            self._stopping.set()
            if self.process:
                self.process.kill()
        self._ended.wait()

    def execute(self, command: Iterable[str]) -> subprocess.CompletedProcess[str]:
        """Runs a command in the container, as its user."""
        security = self.spec.get("securityContext", {})
        user = security.get("runAsUser", 0)
        ids = [f"--setuid={user}", f"--setgid={security.get('runAsGroup', user)}"]
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--root", "--wd", *ids]
        return subprocess.run([*inside, *command], text=True, capture_output=True, check=False)

    def _supervise(self) -> None:
        while (process := self._run()) is not None:
            eventually(lambda: entered(process.pid), f"{self.name} is a container")
            self.tell(self.name, "started")
            self._started.set()
            self.exits.append(process.wait())
            self.tell(self.name, "ended")
            if not self.restarts:
                break
        self._ended.set()

    def _run(self) -> subprocess.Popen[bytes] | None:
        """The container's process, once more; None if it is to end."""
        command, env = command_line(self.spec, self.sandbox)
        whole = dying_with_parent(command)
        with self._starting, self.log.open("ab") as log:
            if self._stopping.is_set():
                return None
            self.process = subprocess.Popen(whole, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            return self.process


class Kubelet:
    """What starts and stops one pod, from the node's network namespace."""

    def __init__(self, spec: Document, sandbox: Sandbox, node: NetNs) -> None:
        self.events: list[tuple[float, str, str]] = []  # when (monotonic), which container, what
        self._spec, self._sandbox, self._node = spec, sandbox, node
        always = spec.get("restartPolicy", "Always") == "Always"
        self.sidecars = {
            each["name"]: Container(each, sandbox, self._tell, restarts=True)
            for each in spec.get("initContainers", [])
            if each.get("restartPolicy") == "Always"
        }
        self.containers = {
            each["name"]: Container(each, sandbox, self._tell, restarts=always) for each in spec["containers"]
        }

    def start(self) -> None:
        """Everything up to the start of the last container. Raises NotReadyError with the log of what did not."""
        for spec in self._spec.get("initContainers", []):
            if spec["name"] in self.sidecars:
                self._bring_up(self.sidecars[spec["name"]])
            else:
                self._complete(spec)
        for container in self.containers.values():
            self._begin(container)

    def wait_until_ready(self, seconds: float = 30) -> None:
        self._await(self.ready, "the pod is ready", seconds)

    def ready(self) -> bool:
        """Whether every container that runs for good passes its readiness probe now."""
        return all(self.passes(each, "readinessProbe") for each in (*self.sidecars.values(), *self.containers.values()))

    def passes(self, container: Container, kind: str) -> bool:
        """One try of a probe, as the kubelet asks it. A container without that probe passes."""
        probe = container.spec.get(kind)
        return probe is None or self._ask(container, probe, probe.get("timeoutSeconds", 1))

    def stop(self, grace: float | None = None) -> None:
        """The pod's end, within its grace period (seconds) unless another is given."""
        deadline = time.monotonic() + (grace or self._spec.get("terminationGracePeriodSeconds", 30))

        def end(container: Container) -> None:
            self._hook(container, "preStop")
            container.terminate(max(0.0, deadline - time.monotonic()))

        self._tell("", "deleted")
        with ThreadPoolExecutor() as pool:
            ending: list[Future[Any]] = [pool.submit(self._hook, each, "preStop") for each in self.sidecars.values()]
            ending += [pool.submit(end, each) for each in self.containers.values()]
            for one in ending:
                one.result()
        for sidecar in reversed(self.sidecars.values()):
            sidecar.terminate(max(2.0, deadline - time.monotonic()))  # KEP-753: two seconds more, past the deadline

    def kill(self) -> None:
        """The end of a test: nothing is asked any more."""
        for container in (*self.containers.values(), *self.sidecars.values()):
            if container.process:
                container.kill()

    def wait(self, seconds: float) -> None:
        """Until every container has ended by itself, as those of a Job do; then the sidecars are told to."""
        for container in self.containers.values():
            if container.wait(seconds) is None:
                raise NotReadyError(f"{container.name} has not ended within {seconds:g} s: {tail(container.log)}")
        for sidecar in reversed(self.sidecars.values()):
            sidecar.terminate(self._spec.get("terminationGracePeriodSeconds", 30))

    def _tell(self, container: str, what: str) -> None:
        self.events.append((time.monotonic(), container, what))

    def _begin(self, container: Container) -> None:
        """Raises NotReadyError if its postStart hook fails, for which the kubelet kills the container."""
        container.start()
        if not self._hook(container, "postStart"):
            raise NotReadyError(f"the postStart hook of {container.name} failed: {tail(container.log)}")

    def _bring_up(self, sidecar: Container) -> None:
        self._begin(sidecar)
        probe = sidecar.spec.get("startupProbe", {})
        seconds = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
        self._await(lambda: self.passes(sidecar, "startupProbe"), f"{sidecar.name} is up", seconds)
        self._tell(sidecar.name, "up")

    def _complete(self, spec: Document) -> None:
        container = Container(spec, self._sandbox, self._tell)
        container.start()
        code = container.wait(60)
        if code != 0:
            container.kill()
            raise NotReadyError(f"{container.name} ended with {code}: {tail(container.log)}")

    def _hook(self, container: Container, kind: str) -> bool:
        """Whether a hook, run to its end, succeeds. A container without that hook does."""
        hook = container.spec.get("lifecycle", {}).get(kind)
        if hook is None:
            return True
        self._tell(container.name, kind)
        if "sleep" in hook:
            time.sleep(hook["sleep"]["seconds"])
            return True
        return self._ask(container, hook, 30)

    def _ask(self, container: Container, probe: Document, seconds: float) -> bool:
        """Whether a probe's or hook's action succeeds."""
        match probe:
            case {"exec": {"command": command}}:
                return container.execute(command).returncode == 0
            case {"httpGet": action}:
                return self._node.call(lambda: self._http_get(container, action, seconds))
            case {"tcpSocket": action}:
                where = (action.get("host", self._address), self._port(container, action["port"]))
                return self._node.call(lambda: _connects(where, seconds))
            case {"grpc": action}:
                service = action.get("service", "")
                return self._node.call(lambda: health.check(self._address, action["port"], service, seconds))
            case _:
                raise NotImplementedError(f"the lab cannot ask {probe}")

    @property
    def _address(self) -> str:
        return self._sandbox.facts["status.podIP"]

    def _port(self, container: Container, port: int | str) -> int:
        named = {each["name"]: each["containerPort"] for each in container.spec.get("ports", []) if "name" in each}
        return int(named.get(port, port))

    def _http_get(self, container: Container, action: Document, seconds: float) -> bool:
        where = (action.get("host", self._address), self._port(container, action["port"]), seconds)
        secure = ssl._create_unverified_context()
        connection = (
            http.client.HTTPSConnection(where[0], where[1], timeout=seconds, context=secure)
            if action.get("scheme") == "HTTPS"
            else http.client.HTTPConnection(where[0], where[1], timeout=seconds)
        )
        headers = {"User-Agent": "kube-probe/1.36", "Accept": "*/*", "Connection": "close"}
        headers |= {each["name"]: each["value"] for each in action.get("httpHeaders", [])}
        try:
            connection.request("GET", action.get("path", "/"), headers=headers)
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _await(self, ask: Callable[[], bool], what: str, seconds: float) -> None:
        """Raises NotReadyError with what the containers say; at once, if one ends again and again."""
        every = (*self.sidecars.values(), *self.containers.values())
        try:
            crashed = eventually(lambda: [each for each in every if len(each.exits) > 3] or ask(), what, seconds)
        except NotReadyError:
            crashed = list(every)
        if isinstance(crashed, list):
            said = "\n".join(
                f"{each.name} ({each.exits}): {tail(each.log, 4)[-1000:]}" for each in every if each.log.exists()
            )
            raise NotReadyError(f"not within {seconds:g} s: {what}\n{said}")


def _connects(where: tuple[str, int], seconds: float) -> bool:
    try:
        socket.create_connection(where, timeout=seconds).close()
    except OSError:
        return False
    return True
