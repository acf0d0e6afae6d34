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


# `host:port`, or nothing.
HostPort = Annotated[str, Matching(r"([A-Za-z0-9]([-A-Za-z0-9.]{0,251}[A-Za-z0-9])?:[1-9][0-9]{0,4})?")]
