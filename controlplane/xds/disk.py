"""Manifests on disk as a source: a file, or all YAML and JSON files below a folder; read anew when one changes.

For demonstrations, tests, and the commands that need no cluster.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from controlplane.xds.feed import Feed
from controlplane.xds.world import WHAT, What

LOOK_SECONDS = 0.1  # between two looks at the files
STDIN = Path("-")
SUFFIXES = frozenset({".yaml", ".yml", ".json"})
MAX_BYTES = 32 << 20  # of a file; each is some 40 of memory while it is read
MAX_VALUES = 5_000_000  # of a document, with its aliases expanded; 5,000 Services with 10,000 endpoints have 200,000
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Objects = dict[What, list[Any]]


class DiskError(Exception):
    """The manifests cannot be read; the message names the file."""


def read(place: Path) -> Objects:
    """All objects of the kinds that matter, those in Lists too. Raises DiskError."""
    found: Objects = {what: [] for what in WHAT}
    for path in files(place):
        for one in _documents(path):
            kind, version = one.get("kind"), one.get("apiVersion")
            if isinstance(kind, str) and kind in found and version in (None, _VERSIONS.get(kind, "v1")):
                found[kind].append(one)
    return found


_VERSIONS = {"EndpointSlice": "discovery.k8s.io/v1"}  # others have a Service, too


def files(place: Path) -> Sequence[Path]:
    """The file itself, or the manifests below a folder, in the order of their names. Raises DiskError."""
    if place == STDIN:
        return [Path("/dev/stdin")]
    try:
        if not place.is_dir():
            return [place]
        found = (path for path in place.rglob("*") if path.suffix in SUFFIXES and path.is_file())
        # The kubelet keeps the files of a volume in a folder `..2026_…`, and shows links to them beside it.
        return sorted(path for path in found if not any(map(_is_hidden, path.relative_to(place).parts)))
    except OSError as error:
        raise DiskError(f"{place}: {error.strerror}") from None


def _is_hidden(name: str) -> bool:
    return name.startswith("..")


def _documents(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise DiskError(f"{path}: has more than {MAX_BYTES >> 20} MiB; split it into several files")
        for document in yaml.load_all(text, Loader=_LOADER):
            _check(document)
            yield from _flat(document)
    except OSError as error:
        raise DiskError(f"{path}: {error.strerror}") from None
    except RecursionError:
        raise DiskError(f"{path}: is nested too deeply") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise DiskError(f"{path}: is no YAML: {' '.join(str(error).split())}") from None


def _check(document: object) -> None:
    if _values(document, {}) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values, with its aliases expanded")


def _values(found: object, known: dict[int, int]) -> int:
    """How many there are, an alias counted as what it stands for. Raises RecursionError for what holds itself."""
    if not isinstance(found, dict | list):
        return 1
    number = known.get(id(found))
    if number is None:
        inner = found.values() if isinstance(found, dict) else found
        number = known[id(found)] = 1 + sum(_values(one, known) for one in inner)
    return number


def _flat(document: object) -> Iterator[dict[str, Any]]:
    """The objects of a List, or of an array; there is none within another.

    Those of a ServiceList have no kind and version of their own: the API server says them once.
    """
    if isinstance(document, list):
        yield from (item for item in document if isinstance(item, dict))
    elif isinstance(document, dict):
        items, kind = document.get("items"), str(document.get("kind", ""))
        if kind.endswith("List") and isinstance(items, list):
            own = (
                {"apiVersion": document.get("apiVersion"), "kind": kind.removesuffix("List")} if kind != "List" else {}
            )
            yield from ({**own, **item} for item in items if isinstance(item, dict))
        else:
            yield document


class Disk:
    """Tells `feed` until `stop`. `on_failure` hears once what cannot be read; what was known stays, of all files."""

    def __init__(self, place: Path, feed: Feed, on_failure: Callable[[Exception], None]) -> None:
        self._place, self._feed, self._on_failure = place, feed, on_failure
        self._problem = ""  # why they could not be read last
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="disk", daemon=True)

    def start(self) -> None:
        """Begins, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it at the next look."""
        self._stopping.set()

    @property
    def healthy(self) -> bool:
        """Whether it still looks, if it is to."""
        return self._thread.ident is None or self._thread.is_alive() or self._stopping.is_set()

    def _follow(self) -> None:
        seen: object = None
        is_read = False
        while not self._stopping.is_set():
            there = self._state()
            if there != seen or self._feed.wanted:
                seen = there
                is_read = self._read()
            for what in WHAT if is_read else ():  # what cannot be read counts as silence
                self._feed.heard(what)
            self._stopping.wait(LOOK_SECONDS)

    def _read(self) -> bool:
        try:
            for what, objects in read(self._place).items():
                self._feed.listed(what, objects)
        except Exception as error:  # DiskError, or a bug of ours: neither may end it
            former, self._problem = self._problem, repr(error)
            if self._problem != former:
                self._on_failure(error)
            return False
        self._problem = ""
        return True

    def _state(self) -> object:
        """What is another when a file is."""
        try:
            return [
                (path, (there := path.stat()).st_mtime_ns, there.st_size, there.st_ino) for path in files(self._place)
            ]
        except (OSError, DiskError) as error:
            return str(error)
