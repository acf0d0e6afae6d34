"""The cluster as it would be: takes every write into memory, by the API server's rules for them, and sends none."""

import base64
import copy
from datetime import datetime

from certs import objects
from certs.kube import ConflictError
from certs.objects import Target
from certs.reading import Object, Reading, version


class Rehearsal:
    """Starts with what `reading` found."""

    def __init__(self, reading: Reading) -> None:
        self.at: datetime = reading.at
        self.namespaces = dict(reading.namespaces)
        self.found: dict[Target, Object] = copy.deepcopy(dict(reading.found))
        self._writes = 0

    def read(self) -> Reading:
        return Reading(self.at, copy.deepcopy(self.found), dict(self.namespaces))

    def create(self, target: Target) -> None:
        if target not in self.found:
            self._store(target, {"metadata": {"name": target.name, "namespace": target.namespace}})

    def fill(self, target: Target, read: Object, content: dict[str, bytes]) -> None:
        self._compare(target, read)
        encode = base64.b64encode if target.kind == "Secret" else bytes
        self._store(target, self.found[target] | {"data": {k: encode(v).decode() for k, v in content.items()}})

    def publish(self, target: Target, read: Object, text: bytes) -> None:
        if target.kind == "ConfigMap":
            return self.fill(target, read, {objects.CONFIG_MAP_KEY: text})
        self._compare(target, read)
        changed = copy.deepcopy(self.found[target])
        for webhook in changed["webhooks"]:
            webhook["clientConfig"]["caBundle"] = base64.b64encode(text).decode()
        return self._store(target, changed)

    def _compare(self, target: Target, read: Object) -> None:
        if target not in self.found or version(self.found[target]) != version(read):
            raise ConflictError("refused", f"{target} is not what was read")

    def _store(self, target: Target, changed: Object) -> None:
        self._writes += 1
        metadata = {"uid": f"new-{self._writes}", **changed["metadata"], "resourceVersion": f"new-{self._writes}"}
        self.found[target] = changed | {"metadata": metadata}
