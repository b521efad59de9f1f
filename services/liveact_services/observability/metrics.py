"""Every metric of the service, declared once: what code records, dashboards and alerts ask for, and the documents list.

Ray serves them as Prometheus reads them: `ray_` before each name, `_total` behind a counter's. Serve adds to each the labels
`deployment`, `replica` and `application`, Ray a few of its own (`RAY_LABELS`). No label is a session's: what has no bound has no
place here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

RAY_LABELS = frozenset({
    "deployment", "replica", "application", "WorkerId", "NodeAddress", "SessionName", "Component", "Version",
})  # fmt: skip
"""What Serve and Ray add to every sample."""


class Kind(StrEnum):
    """What Prometheus calls it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric, as it is recorded."""

    name: str
    kind: Kind
    unit: str
    help: str
    by: str
    """The deployments that record it."""
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""

    @property
    def exported(self) -> str:
        """Its name in Prometheus."""
        return f"ray_{self.name}" + ("_total" if self.kind is Kind.COUNTER else "")

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a query may use."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.exported}_{part}" for part in ("bucket", "sum", "count"))
        return (self.exported,)


_WORK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6, 2.4, 5.0, 15.0)
"""Seconds; a block of 32 frames at 20 frames a second lasts 1.6."""
_WAIT = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 90.0)
"""Seconds that a person waits."""


def _counter(name: str, unit: str, help: str, by: str, *labels: str) -> Metric:
    return Metric(f"liveact_{name}", Kind.COUNTER, unit, help, by, labels)


def _gauge(name: str, unit: str, help: str, by: str, *labels: str) -> Metric:
    return Metric(f"liveact_{name}", Kind.GAUGE, unit, help, by, labels)


def _seconds(name: str, help: str, by: str, *labels: str, buckets: tuple[float, ...] = _WORK) -> Metric:
    return Metric(f"liveact_{name}_seconds", Kind.HISTOGRAM, "seconds", help, by, labels, buckets)


_GATEWAY, _HOLDERS, _DENOISER, _VAULT = "Gateway", "Denoiser, VaeDecoder", "Denoiser", "Vault"

# ---- blocks and stages -------------------------------------------------------------------------------------------------------

BLOCK_SECONDS = _seconds("block", "From planning a block to its first frames, all stages and queues.", _GATEWAY, "pool")
BLOCK_DEADLINES = _counter(
    "block_deadlines", "blocks", "Blocks of real-time sessions, by whether they came in time to be shown (met, missed).",
    _GATEWAY, "pool", "outcome",
)  # fmt: skip
STAGE_SECONDS = _seconds(
    "stage", "Work of one stage on one call, a block's or, for text, image and reference, a session's.",
    "every stage", "stage",
)  # fmt: skip
STAGE_WAIT_SECONDS = _seconds(
    "stage_wait", "What such a call waited for its turn at the replica.", "every stage", "stage"
)
STEP_SECONDS = _seconds("denoise_step", "One diffusion step of one block, on all ranks.", _DENOISER)

# ---- what viewers notice -----------------------------------------------------------------------------------------------------

STALLS = _counter(
    "viewer_stalls", "stalls", "Underruns: frames that came later than the viewer's clock asked.", _GATEWAY, "pool"
)
STALL_SECONDS = _counter(
    "viewer_stall_seconds", "seconds", "How long the picture stood still for that.", _GATEWAY, "pool"
)
VOICE_UNDERRUNS = _counter(
    "voice_underruns", "events", "Utterances that ran dry while they were spoken: the client's voice came too late.",
    _GATEWAY, "pool",
)  # fmt: skip
READY_SECONDS = _seconds("ready", "From a stream's config to READY.", _GATEWAY, "pool", buckets=_WAIT)
FIRST_FRAME_SECONDS = _seconds(
    "first_frame", "From a session's first voice to the first frame that speaks it.", _GATEWAY, "pool", buckets=_WAIT
)

# ---- sessions ----------------------------------------------------------------------------------------------------------------

SESSIONS = _gauge(
    "sessions",
    "sessions",
    "Sessions by state (admitted, ready, streaming, detached) and pool.",
    _GATEWAY,
    "state",
    "pool",
)
OPENS = _counter(
    "session_opens", "sessions",
    "New sessions asked for: ready, no_room (refused for now), refused (the client's doing), failed (the service's).",
    _GATEWAY, "outcome",
)  # fmt: skip
REFUSALS = _counter(
    "refusals",
    "calls",
    "Calls and streams that ended with an error, by its reason (docs/errors.md).",
    _GATEWAY,
    "call",
    "reason",
)
SESSION_ENDS = _counter(
    "session_ends", "sessions", "Sessions that ended, by their last state and why.", _GATEWAY, "state", "reason"
)
RESUMES = _counter(
    "resumes", "streams", "Streams that went on with a session: where it was (here), or taken over from another Gateway.",
    _GATEWAY, "place",
)  # fmt: skip
MIGRATIONS = _counter(
    "migrations", "moves", "Sessions' parts that went on elsewhere: lost, leaving (in time), or with their Gateway.",
    _GATEWAY, "cause", "pool",
)  # fmt: skip
MIGRATION_SECONDS = _seconds("migration", "How long the session was away, each time.", _GATEWAY, "cause", buckets=_WAIT)
TENANT_SECONDS = _counter(
    "tenant_stream_seconds", "seconds",
    "Seconds of video streamed, as quotas count them; the tenants beyond telemetry.max_tenants are `other`.",
    _GATEWAY, "tenant",
)  # fmt: skip

# ---- replicas ----------------------------------------------------------------------------------------------------------------

HELD = _gauge("held_sessions", "sessions", "Sessions that a replica holds.", _HOLDERS, "pool")
CAPACITY = _gauge(
    "session_capacity", "sessions", "Small sessions that it could hold, by what it measured.", _HOLDERS, "pool"
)
FILLED = _gauge(
    "filled_ratio",
    "ratio",
    "What its sessions take of it, of what there is least of.",
    _HOLDERS,
    "pool",
)
WAITING = _gauge(
    "waiting_sessions", "sessions", "Sessions that it turned away and that are due to ask again.", _HOLDERS, "pool"
)
SESSION_MEMORY = _gauge(
    "session_memory_bytes", "bytes", "Device memory of a session while a block of it is made, the mean of those held.",
    _DENOISER, "pool",
)  # fmt: skip
EXPORTS = _counter(
    "exports",
    "exports",
    "Values sent to the Vault: kept, dropped (of a session that has ended) or failed.",
    _HOLDERS,
    "outcome",
)
EXPORT_BYTES = _counter("export_bytes", "bytes", "Their bytes.", _HOLDERS)
EXPORT_SECONDS = _seconds("export", "From a block boundary to the Vault's answer, beside the computing.", _HOLDERS)
VAULT_BYTES = _gauge("vault_bytes", "bytes", "Exports and journals that a Vault holds.", _VAULT)
VAULT_CAPACITY = _gauge("vault_capacity_bytes", "bytes", "What it may hold.", _VAULT)
VAULT_SESSIONS = _gauge("vault_sessions", "sessions", "Sessions of which it holds something.", _VAULT)
STORE_AWAY = _gauge("store_away", "0 or 1", "Whether Redis does not answer, or takes no writes.", _GATEWAY)
AUDIT_EVENTS = _counter(
    "audit_events", "events",
    "Events of the audit trail: kept in Redis, dropped (in the log only: too many waited), untold (too many refusals).",
    _GATEWAY, "outcome",
)  # fmt: skip
AUDIT_WAITING = _gauge("audit_waiting", "events", "Events that wait for Redis.", _GATEWAY)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order of this file."""


def table() -> str:
    """The metrics as docs/observability.md lists them."""
    lines = ["| metric | kind | unit | labels | recorded by | what |", "| --- | --- | --- | --- | --- | --- |"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(
            f"| `{metric.exported}` | {metric.kind} | {metric.unit} | {labels} | {metric.by} | {metric.help} |"
        )
    return "\n".join(lines)
