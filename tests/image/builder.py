"""Builds the Dockerfile with buildah in a store of its own, outside the checkout, and runs what came out.

The base image is made from Debian's packages under the name that the Dockerfile gives it, so no registry is asked.
This machine's pip configuration and certificates are mounted while building; nothing of it ends up in an image.
"""

import configparser
import fcntl
import json
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
RELEASES = {"13": "trixie"}
PIP_PATHS = ("cert", "find-links")  # of this machine; they mean nothing inside


def base_image() -> str:
    """The one image that the Dockerfile starts from, such as `debian:13.8-slim`."""
    (name,) = re.findall(r"^FROM (\S+:\S+)", (CHECKOUT / "Dockerfile").read_text(), re.MULTILINE)
    return str(name)


@dataclass(frozen=True, slots=True)
class Image:
    """A built target."""

    store: "Store"
    id: str

    def config(self) -> dict[str, Any]:
        """The OCI image's `config`: Entrypoint, User, Env and the rest."""
        inspected = json.loads(self.store.buildah("inspect", "--type", "image", self.id).stdout)
        config: dict[str, Any] = inspected["OCIv1"]["config"]
        return config

    def run(
        self, *command: str, stdin: str = "", env: Sequence[str] = (), wrapper: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a fresh container of this image, as the image's own user, and waits for its end."""
        container = self.store.buildah("from", "--pull-never", self.id).stdout.strip()
        variables = [word for variable in env for word in ("--env", variable)]
        try:
            return self.store.buildah(
                "run", "--isolation", "chroot", "--cap-add", "CAP_NET_ADMIN", "--cap-add", "CAP_NET_RAW",
                *variables, container, "--", *command, stdin=stdin, wrapper=wrapper, check=False,
            )  # fmt: skip
        finally:
            self.store.buildah("rm", container)


@dataclass(frozen=True, slots=True)
class Store:
    """A private store of images under `folder`; built layers are found there again next time."""

    folder: Path

    def buildah(
        self, *arguments: str, stdin: str = "", wrapper: Sequence[str] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """One call. Raises CalledProcessError with buildah's output as a note."""
        places = ("--root", str(self.folder / "root"), "--runroot", str(self.folder / "run"))
        done = subprocess.run(
            [*wrapper, "buildah", *places, *arguments], input=stdin, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            problem = subprocess.CalledProcessError(done.returncode, done.args, done.stdout, done.stderr)
            problem.add_note(done.stderr[-4000:])
            raise problem
        return done

    def make_base(self) -> None:
        """Makes the Dockerfile's base image from Debian's packages, unless it is there."""
        name = f"docker.io/library/{base_image()}"
        if self.buildah("images", "--quiet", name, check=False).stdout.strip():
            return
        archive = self.folder / "base.tar"
        release = RELEASES[base_image().split(":")[1].split(".")[0]]
        without = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "locale", "man")]
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", *without, release, str(archive)],
            check=True, capture_output=True,
        )  # fmt: skip
        container = self.buildah("from", "scratch").stdout.strip()
        self.buildah("add", container, str(archive), "/")
        self.buildah("commit", "--quiet", "--rm", container, name)
        archive.unlink()

    def build(self, target: str) -> Image:
        """Builds one target of the Dockerfile; sessions that start together build one after the other."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.make_base()
            return self._build(target)

    def _build(self, target: str) -> Image:
        mounts = [word for mount in _pip_mounts(self.folder) for word in ("--volume", mount)]
        built = self.buildah(
            "build", "--quiet", "--isolation", "chroot", "--network", "host", "--pull-never", "--layers", *mounts,
            "--target", target, "--tag", f"localhost/envoy-sidecar-{target}:test", str(CHECKOUT),
        )  # fmt: skip
        return Image(self, built.stdout.split()[-1])


def _pip_mounts(folder: Path) -> list[str]:
    """How pip inside a build reaches what pip on this machine reaches: mounts of its configuration."""
    listed = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, check=True).stdout
    options = {name: value for _, name, value in re.findall(r"^(global|:env:)\.([\w-]+)='(.*)'$", listed, re.MULTILINE)}
    configuration = configparser.ConfigParser(interpolation=None)
    configuration["global"] = {name: value for name, value in options.items() if name not in PIP_PATHS}
    mounts = [f"{folder}/pip.conf:/etc/pip.conf:ro"]
    if certificates := options.get("cert"):
        configuration["global"]["cert"] = "/etc/pip-certificates.pem"
        mounts.append(f"{certificates}:/etc/pip-certificates.pem:ro")
    with (folder / "pip.conf").open("w") as file:
        configuration.write(file)
    return mounts


def default_store() -> Store:
    """The store that every checkout of this user shares."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Store(cache / "envoy-sidecar-injector" / "images")
