"""Everything this package raises. A pod author's mistake is not here: it is a value (`policy.Reject`).

WebhookError
├── MalformedReview   the request is not an AdmissionReview that we can read: HTTP 400
└── SettingsError     the operator's settings are wrong: exit code 2, before listening
"""

from collections.abc import Sequence


class WebhookError(Exception):
    """Root of the tree; the message is for a person."""


class MalformedReview(WebhookError):
    """The bytes are no AdmissionReview (or no Pod) that can be read; the message says where."""


class SettingsError(WebhookError):
    """The settings are wrong; `problems` holds every one of them, each with its path."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{source}: {len(self.problems)} problem(s) in the settings{lines}")
