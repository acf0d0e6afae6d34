"""What is wanted of a part of ours that came by before, and that the API server's plugins have looked at since."""

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]


def settle(wanted: Document, present: Document, *, same_settings: bool) -> Document:
    """`wanted`, with what the API server's plugins made of it when it came by before as `present`.

    They do not come again after a repair: AlwaysPullImages sets `imagePullPolicy`, and refuses a pod on which it is
    set back; LimitRanger fills in resources that we do not name. Nothing else of `present` is taken over, and no
    resources of a part that was made under other settings.
    """
    settled = dict(wanted)
    if "imagePullPolicy" in wanted and present.get("imagePullPolicy") == "Always":
        settled["imagePullPolicy"] = "Always"
    former = present.get("resources")
    if same_settings and "resources" in wanted and isinstance(former, Mapping):
        amounts = {kind: {**_limit_ranger(former.get(kind)), **wanted["resources"].get(kind, {})} for kind in _KINDS}
        settled["resources"] = {kind: some for kind, some in amounts.items() if some}  # empty maps are not stored
    return settled


_KINDS = ("requests", "limits")


def _limit_ranger(amounts: object) -> Document:
    """Of these amounts, what a LimitRange may set."""
    if not isinstance(amounts, Mapping):
        return {}
    return {name: amounts[name] for name in ("cpu", "memory", "ephemeral-storage") if name in amounts}
