"""What a setting may be, beyond its type. Pydantic, which reads the settings file, enforces it; this needs nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from controlplane.extensions import Json


@dataclass(frozen=True, slots=True)
class Between:
    """A number's bounds, both included."""

    least: int
    most: int

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Json]) -> Json:
        return {**handler(source), "ge": self.least, "le": self.most}


@dataclass(frozen=True, slots=True)
class Matching:
    """Text of that pattern."""

    pattern: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Json]) -> Json:
        return {**handler(source), "pattern": rf"^{self.pattern}$"}


@dataclass(frozen=True, slots=True)
class Pem:
    """Certificates in PEM, `system`, or nothing. Every pod's bootstrap holds them, so no key may be among them."""

    most: int = 65536  # bytes; the ConfigMap holds them four times

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Json]) -> Json:
        check = {"type": "no-info", "function": self._checked}
        return {"type": "function-after", "function": check, "schema": handler(source)}

    def _checked(self, text: str) -> str:
        if text in ("", SYSTEM):
            return text
        if len(text) > self.most:
            raise ValueError(f"is longer than {self.most} bytes")
        if "PRIVATE KEY" in text:
            raise ValueError("holds a private key; give certificates only")
        try:
            import ssl  # for those few who set it

            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
        except (OSError, TypeError, ValueError) as error:  # for what is no certificate, not ASCII, or no text
            raise ValueError(f"give certificates in PEM, or {SYSTEM}") from error
        return text


SYSTEM = "system"
CAs = Annotated[str, Pem()]

_PORT = r"(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3})"
# `host:port`, or nothing.
HostPort = Annotated[str, Matching(rf"([A-Za-z0-9]([-A-Za-z0-9.]{{0,251}}[A-Za-z0-9])?:{_PORT})?")]
