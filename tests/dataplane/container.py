"""A container of a pod manifest as a process: its command line, environment, user, capabilities, mounts and root file
system, as a runtime would make them. The root file system is this machine's /usr, the checkout and the interpreter."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.dataplane.netns import NetNs
from webhook.values import parse_quantity

Document = Mapping[str, Any]
CHECKOUT = Path(__file__).parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What containerd gives a container that asks for nothing.
DEFAULT_CAPABILITIES = (
    *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP"),
    *("NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
)
_REFERENCE = re.compile(r"\$(?:\$|\((?P<name>[^()]*)\))")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What the containers of a pod share.

    `folder` holds `etc`, whose files each gets in /etc; `volumes` are folders of this machine, `facts` the downward
    API's values by field path, `images` the entrypoints. Without `ipv6`, the node's kernel has none.
    """

    net: NetNs
    folder: Path
    volumes: Mapping[str, Path]
    facts: Mapping[str, str]
    images: Mapping[str, Sequence[str]]
    ipv6: bool = True


def entered(pid: int) -> bool:
    """Whether the process is in the container's root file system; until then nothing can be executed beside it."""
    try:
        return not Path(f"/proc/{pid}/root").samefile("/")
    except FileNotFoundError:  # it has ended
        return True


def environment(container: Document, sandbox: Sandbox) -> dict[str, str]:
    """The variables of a container, each of which may refer to those before it."""
    made: dict[str, str] = {}
    for variable in container.get("env", []):
        source = variable.get("valueFrom")
        made[variable["name"]] = (
            sandbox.facts[source["fieldRef"]["fieldPath"]] if source else expand(variable.get("value", ""), made)
        )
    return made


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`text` with `$(NAME)` replaced as the kubelet does it: once; `$$` is a `$`, and an unknown name stays."""

    def replace(match: re.Match[str]) -> str:
        return "$" if match["name"] is None else variables.get(match["name"], match[0])

    return _REFERENCE.sub(replace, text)


def command_line(container: Document, sandbox: Sandbox) -> tuple[list[str], dict[str, str]]:
    """What this machine is to execute for the container, and the environment for it."""
    variables = environment(container, sandbox)
    entrypoint = container.get("command") or sandbox.images[container["image"]]
    program = [*([] if sandbox.ipv6 else _WITHOUT_IPV6), *entrypoint, *container.get("args", [])]
    folder = sandbox.folder / container["name"]
    folder.mkdir(exist_ok=True)
    _account(folder / "cgroup", container)
    (folder / "fstab").write_text("".join(f"{line} 0 0\n" for line in _mounts(folder / "root", container, sandbox)))
    inside = ["nsenter", f"--net={sandbox.net.path}", "unshare", "--mount", "sh", "-c", _start(folder, container), "sh"]
    return [*inside, *(expand(word, variables) for word in program)], {"PATH": PATH, **variables}


def _account(cgroup: Path, container: Document) -> None:
    """The container's memory, as cgroup v2 shows it; a test may write what is used."""
    cgroup.mkdir(exist_ok=True)
    limit = container.get("resources", {}).get("limits", {}).get("memory")
    (cgroup / "memory.max").write_text(f"{parse_quantity(limit).nano // 10**9}\n" if limit else "max\n")
    (cgroup / "memory.current").write_text(f"{16 << 20}\n")


_WITHOUT_IPV6 = [sys.executable, str(CHECKOUT / "tests" / "dataplane" / "without_ipv6.py")]


def _mounts(root: Path, container: Document, sandbox: Sandbox) -> list[str]:
    system = ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/dev", "/sys"]
    system += ["/proc"] if sandbox.ipv6 else []  # which shows the kernel as it is
    ours = dict.fromkeys(map(str, (CHECKOUT, Path(sys.prefix), Path(sys.base_prefix))))
    shared = [path for path in (*system, *ours) if Path(path).exists()]
    lines = [_bind(path, root, path, read_only=path not in ("/proc", "/dev", "/sys")) for path in shared]
    lines.append(_bind(str(root.parent / "cgroup"), root, "/sys/fs/cgroup", read_only=True))
    for mount in container.get("volumeMounts", []):
        source = sandbox.volumes[mount["name"]] / mount.get("subPath", "")
        lines.append(_bind(str(source), root, mount["mountPath"], read_only=mount.get("readOnly", False)))
    return lines


def _bind(source: str, root: Path, target: str, *, read_only: bool) -> str:
    place = f"{root}{target}".replace(" ", r"\040")
    return f"{source} {place} none rbind,X-mount.mkdir{',ro' if read_only else ''}"


def _start(folder: Path, container: Document) -> str:
    """Makes the root file system and becomes the container's program in it."""
    root = shlex.quote(str(folder / "root"))
    security = container.get("securityContext", {})
    lines = [
        f"mkdir -p {root}",
        f"mount -t tmpfs -o mode=0755 none {root}",
        f"mkdir -m 1777 {root}/tmp",
        f"mkdir {root}/etc && cp -r {shlex.quote(str(folder.parent / 'etc'))}/* {root}/etc/",
        f"mount --all --fstab {shlex.quote(str(folder / 'fstab'))}",
        f"mount -o remount,ro {root}" if security.get("readOnlyRootFilesystem") else ":",
        f'exec chroot {root} setpriv {shlex.join(_privileges(security))} "$@"',
    ]
    return " && ".join(lines)


def _privileges(security: Document) -> list[str]:
    """`setpriv`'s options. As in Kubernetes, a user other than root has no capability after exec."""
    user = security.get("runAsUser", 0)
    added, dropped = (security.get("capabilities", {}).get(key, []) for key in ("add", "drop"))
    kept = [] if "ALL" in dropped else [name for name in DEFAULT_CAPABILITIES if name not in dropped]
    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in dict.fromkeys([*kept, *added]))])
    return [
        f"--reuid={user}",
        f"--regid={security.get('runAsGroup', user)}",
        "--clear-groups",
        "--inh-caps=-all",
        f"--bounding-set={bounding}",
        "--pdeathsig=KILL",
        *([] if security.get("allowPrivilegeEscalation", True) else ["--no-new-privs"]),
    ]
