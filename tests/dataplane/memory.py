"""A memory cgroup of this machine, version 1 or 2: what is in it is killed by the kernel when it takes more."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests import needs

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
NAME = "envoy-sidecar-lab-"


@contextmanager
def limited(pid: int, limit: int) -> Iterator[None]:
    """Puts a process into a cgroup that may hold `limit` bytes more than it has now (it keeps what it has)."""
    above, file = (V1, "memory.limit_in_bytes") if V1.is_dir() else (V2, "memory.max")
    for left in above.glob(f"{NAME}*"):  # by a session that was killed
        with suppress(OSError):
            left.rmdir()
    made = above / f"{NAME}{os.getpid()}"
    try:
        made.mkdir()
        (made / file).write_text(str(limit))
    except OSError:
        needs.missing("a memory cgroup", "run as root where /sys/fs/cgroup can be written")
    (made / "cgroup.procs").write_text(str(pid))
    try:
        yield
    finally:
        with suppress(OSError):
            made.rmdir()
