"""decide(): what becomes of a pod, and why. Skip rules come first, so that an opted-out pod is never rejected.

A decision is a value with a coded reason and a sentence for people; nothing is raised and nothing is rendered here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from webhook import checks, probes
from webhook import pod as pods
from webhook.annotations import Annotation
from webhook.checks import Level
from webhook.choices import Choices, Parsed, defaults, parse
from webhook.pod import INJECT_LABEL, Pod
from webhook.probes import Plan
from webhook.settings import Settings
from webhook.values import did_you_mean, quote

__all__ = ["Decision", "Inject", "Level", "Reject", "RejectReason", "Skip", "SkipReason", "decide"]


class _Reason(StrEnum):
    """A code for machines, with the sentence that stands for it."""

    sentence: str

    def __new__(cls, code: str, sentence: str) -> "_Reason":
        reason = str.__new__(cls, code)
        reason._value_ = code
        reason.sentence = sentence
        return reason


class SkipReason(_Reason):
    """Why a pod is left as it is."""

    MIRROR_POD = "mirror_pod", "a mirror pod only shows a static pod; the kubelet runs what its file says"
    OPTED_OUT = "opted_out", f"the pod's label {INJECT_LABEL}=disabled opts out"
    HOST_NETWORK = "host_network", "the pod uses the host's network; redirecting it would redirect the whole node"
    WINDOWS = "windows", "the pod runs on Windows, where there is no iptables"
    NO_CONTAINERS = "no_containers", "the pod has no containers"
    NOT_POD_CREATION = (
        "not_pod_creation",
        "the request is not for the creation of a pod; the registration asks for too much",
    )
    NO_PODS = "no_pods", "the object makes no pods; the registration asks for too much"


class RejectReason(_Reason):
    """Why a pod is refused."""

    BAD_LABEL = "bad_label", f"the pod's label {INJECT_LABEL} is neither enabled nor disabled"
    OPT_OUT_DENIED = "opt_out_denied", "the pod opts out and the operator does not allow that"
    CANNOT_INJECT = "cannot_inject", "the pod asks for a sidecar explicitly and cannot have one"
    FOREIGN_PARTS = "foreign_parts", "the pod holds a container, a volume or a mount under a name of ours"
    BAD_ANNOTATION = "bad_annotation", "an annotation of ours has a value that is not allowed"
    UNKNOWN_ANNOTATION = (
        "unknown_annotation",
        "an annotation under our prefix is unknown and the operator rejects those",
    )
    NOT_ALLOWED = "not_allowed", "an annotation is one that the operator does not leave to authors"
    POD_SECURITY = "pod_security", "the namespace's PodSecurity level forbids what the mode needs"
    RESOURCES = "resources", "the sidecar's resources contradict each other or the pod's"
    CONFLICT = "conflict", "the application uses a port, uid, gid or capability that the sidecar relies on"
    TOO_MANY_PROBES = "too_many_probes", "more ports have TCP probes than the sidecar can ask for"


@dataclass(frozen=True, slots=True)
class Inject:
    """The pod gets a sidecar as chosen, and its probes as planned; every percentage in `choices` is resolved."""

    choices: Choices
    given: tuple[Annotation, ...] = ()
    warnings: tuple[str, ...] = ()
    probes: Plan = probes.NOTHING


@dataclass(frozen=True, slots=True)
class Skip:
    """The pod stays as it is."""

    reason: SkipReason
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """The pod is refused; `problems` are sentences that say what is wrong and what to do."""

    reason: RejectReason
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()


Decision = Inject | Skip | Reject


def decide(pod: Pod, level: Level, settings: Settings) -> Decision:
    """What becomes of `pod` (without parts of ours) in a namespace that enforces PodSecurity `level`."""
    wish = pod.labels.get(INJECT_LABEL)
    skip = _skip(pod, wish)
    if skip is SkipReason.OPTED_OUT and settings.authors.opt_out == "denied":
        problem = f"{INJECT_LABEL}=disabled is not allowed here; remove the label, or ask the operator: authors.optOut"
        return Reject(RejectReason.OPT_OUT_DENIED, (problem,))
    if skip is not None and wish == "enabled" and skip in (SkipReason.HOST_NETWORK, SkipReason.WINDOWS):
        problem = f"{INJECT_LABEL}=enabled asks for a sidecar, but {skip.sentence}; remove the label"
        return Reject(RejectReason.CANNOT_INJECT, (problem,))
    if skip is not None:
        return Skip(skip, (f"no sidecar ({skip}): {skip.sentence}",) if skip is not SkipReason.MIRROR_POD else ())
    if wish not in (None, "enabled"):
        hint = did_you_mean(wish, ("enabled", "disabled"))
        return Reject(RejectReason.BAD_LABEL, (f"label {INJECT_LABEL}: {quote(wish)}: use enabled or disabled{hint}",))
    return _inject(pod, level, settings)


def _skip(pod: Pod, wish: str | None) -> SkipReason | None:
    if pods.MIRROR_ANNOTATION in pod.annotations:
        return SkipReason.MIRROR_POD
    if wish == "disabled":
        return SkipReason.OPTED_OUT
    if pod.spec.host_network:
        return SkipReason.HOST_NETWORK
    if pods.is_windows(pod):
        return SkipReason.WINDOWS
    if not pod.spec.containers:
        return SkipReason.NO_CONTAINERS
    return None


def _inject(pod: Pod, level: Level, settings: Settings) -> Inject | Reject:
    parsed = parse(pod.annotations, settings)
    unknown = parsed.unknown
    if unknown and settings.unknown_annotations == "reject":
        return Reject(RejectReason.UNKNOWN_ANNOTATION, unknown)
    if parsed.problems:
        return Reject(RejectReason.BAD_ANNOTATION, parsed.problems, unknown)
    planned = probes.plan(pod, parsed.choices)
    found = (
        (RejectReason.NOT_ALLOWED, _not_allowed(pod, parsed, level, settings)),
        (RejectReason.BAD_ANNOTATION, checks.combination(parsed.choices)),
        (RejectReason.POD_SECURITY, checks.pod_security(parsed.choices, level)),
        (RejectReason.FOREIGN_PARTS, checks.foreign_parts(pod)),
        (RejectReason.CONFLICT, checks.port_conflicts(pod, planned)),
        (RejectReason.TOO_MANY_PROBES, checks.too_many_probes(planned)),
    )
    for reason, sentences in found:
        if problems := tuple(sentences):
            return Reject(reason, problems, unknown)
    conflicts = tuple(checks.privilege_conflicts(pod, parsed.choices, settings))
    if conflicts and settings.authors.conflicts == "reject":
        return Reject(RejectReason.CONFLICT, conflicts, unknown)
    choices, problems = checks.resolve(parsed.choices, pod)
    problems = problems or tuple(checks.beyond_pod_resources(choices, pod, settings))
    if problems:
        return Reject(RejectReason.RESOURCES, problems, unknown)
    told = (*unknown, *conflicts, *checks.warnings(pod, parsed.given, choices, planned))
    return Inject(choices, parsed.given, told, planned)


# What authors may not set


def _not_allowed(pod: Pod, parsed: Parsed, level: Level, settings: Settings) -> Iterator[str]:
    for row in parsed.given:
        value = pod.annotations[row.key].strip()
        if getattr(parsed.choices, row.field) == getattr(defaults(settings), row.field):
            continue
        if not _is_allowed(row, value, level, settings):
            yield f"{row.key}: {quote(value)} is not left to authors; ask the operator: authors.allow.{row.name}"
        elif row.name == "image" and not _has_allowed_prefix(value, settings.images.allowed):
            allowed = ", ".join(settings.images.allowed)
            yield f"{row.key}: {quote(value)} is from elsewhere; use an image under {allowed} (images.allowed)"


def _is_allowed(row: Annotation, value: str, level: Level, settings: Settings) -> bool:
    allowed = settings.authors.allow.get(row.name)
    if allowed is None:
        # Where PodSecurity forbids redirection, mode none is the only way in.
        allowed = (
            (*row.free, "none")
            if row.name == "mode" and level != "privileged" and isinstance(row.free, tuple)
            else row.free
        )
    return allowed if isinstance(allowed, bool) else value in allowed


def _has_allowed_prefix(image: str, prefixes: tuple[str, ...]) -> bool:
    """Whether `image` lies under a prefix, up to a boundary of its parts.

    `registry/envoy` does not cover `registry/envoy-of-mine`, nor `registry` the other server `registry:5000`, nor
    `registry/envoy:v1` the same with a digest.
    """

    def lies_under(prefix: str) -> bool:
        server, _, name = prefix.rpartition("/")
        boundaries = "/:@" if server and ":" not in name else "/"  # behind a tag comes a digest, which wins over it
        rest = image.removeprefix(prefix)
        return image.startswith(prefix) and (not rest or prefix[-1] in boundaries or rest[0] in boundaries)

    return not prefixes or any(lies_under(prefix) for prefix in prefixes)
