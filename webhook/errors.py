"""Everything this package raises. A pod author's mistake is not here: it is a value (`policy.Reject`).

WebhookError
├── MalformedReview     the request is not an AdmissionReview that we can read: HTTP 400
├── Unreadable          an input file cannot be read: exit code 2 of the offline commands
├── MalformedDocument   a YAML document in it cannot: the same
├── SettingsError       the operator's settings are wrong: exit code 2, before listening
└── CertificateError    the mounted certificate cannot be served: exit code 2 at start, later the former one stays
"""

from collections.abc import Sequence


class WebhookError(Exception):
    """Root of the tree; the message is for a person."""


class MalformedReview(WebhookError):
    """The bytes are no AdmissionReview (or no Pod) that can be read; the message says where."""


class Unreadable(WebhookError):
    """The input file of an offline command cannot be read, or is no text; the message names it."""


class MalformedDocument(WebhookError):
    """Document `number` of a YAML stream cannot be read; `line` is counted in the stream, both from 1."""

    def __init__(self, number: int, line: int, message: str) -> None:
        self.number = number
        self.line = line
        self.message = message
        super().__init__(f"line {line}: document {number} {message}")


class SettingsError(WebhookError):
    """The settings are wrong; `problems` holds every one of them, each with its path."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{source}: {len(self.problems)} problem(s) in the settings{lines}")


class CertificateError(WebhookError):
    """The certificate and key in the mounted directory cannot be served; the message says which file, and why."""
