"""ServiceAccount tokens by their looks: what they say is what a test wants, and nobody signed them."""

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any

from controlplane.discovery import AUDIENCE

FAR = 4e9  # seconds since 1970


def token(pod: str = "shop/web-0", audience: object = AUDIENCE, expires: object = FAR, **claims: object) -> str:
    """A token of a pod, `NAMESPACE/POD`."""
    namespace, name = pod.split("/")
    bound = {"namespace": namespace, "pod": {"name": name}, "node": {"name": "node-1"}}
    said = {"sub": f"system:serviceaccount:{namespace}:default", "aud": [audience], "exp": expires}
    words = ({"alg": "none"}, {**said, "kubernetes.io": bound, **claims})
    return ".".join([*(_encode(word) for word in words), "signature"])


def reviewed(pod: str = "shop/web-0", node: str = "node-1", **changes: object) -> Mapping[str, Any]:
    """A TokenReview's status for a token of that pod."""
    namespace, name = pod.split("/")
    extra = {"authentication.kubernetes.io/pod-name": [name], "authentication.kubernetes.io/node-name": [node]}
    user = {"username": f"system:serviceaccount:{namespace}:default", "extra": extra}
    return {"authenticated": True, "audiences": [AUDIENCE], "user": user, **changes}


def _encode(word: object) -> str:
    return urlsafe_b64encode(json.dumps(word).encode()).rstrip(b"=").decode()
