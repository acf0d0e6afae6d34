"""From a resource's source to what is sent, a little at each step: others have their turn between two."""

import hashlib
from collections.abc import Generator

from controlplane.extensions import Json
from controlplane.xds import messages
from controlplane.xds.snapshot import Kind, Resource

Making = Generator[None, None, Resource | None]


def encoding(kind: Kind, name: str, source: Json, last: Resource | None) -> Making:
    """The resource that a proxy calls so; `last`, if that is the same. Raises messages.InvalidResource."""
    texts, parts, version = [], [], hashlib.sha256()
    for text in messages.canonical(kind, source):
        texts.append(text)
        version.update(text.encode())
        yield
    if last is not None and last.version == version.hexdigest()[:16]:
        return last
    for text in texts:
        parts.append(messages.part(kind, text))
        yield
    return Resource(name, version.hexdigest()[:16], messages.put_together(kind, parts))


def at_once(kind: Kind, name: str, source: Json) -> Resource | None:
    """The same in one step."""
    return finished(encoding(kind, name, source, None))


def finished(making: Making) -> Resource | None:
    """What comes of all steps."""
    while True:
        try:
            next(making)
        except StopIteration as end:
            found: Resource | None = end.value
            return found
