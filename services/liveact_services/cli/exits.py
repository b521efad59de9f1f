"""Exit codes, and which of them each error becomes."""

from __future__ import annotations

import secrets
import sys
from enum import IntEnum


class ExitCode(IntEnum):
    """What `liveact` returns; fixed for scripts."""

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    BAD_INPUT = 3
    UNAVAILABLE = 4
    INTERNAL = 5
    INTERRUPTED = 130


HELP = (
    "Exit codes: 0 ok; 1 a check failed; 2 wrong usage; 3 bad input (a file, a value or a configuration that is not "
    "accepted); 4 the service is unavailable or failed; 5 internal error; 130 interrupted."
)


class BadInput(ValueError):
    """A file or value that is not accepted; the message names it and what is accepted."""


class CheckFailed(Exception):
    """The command did its work, and what it checked is not as it must be."""


class Unavailable(Exception):
    """What the command needs cannot be started or reached."""


# By name: an error whose module was never imported cannot have been raised, and importing torch to find out costs seconds.
_BAD_INPUT = (
    ("liveact_models.config", "ConfigError"),
    ("liveact_models.checkpoint.errors", "CheckpointError"),
    ("liveact_models.evaluate.judge", "JudgeError"),
    ("liveact_models.evaluate.published", "PublishedError"),
    ("liveact_models.evaluate.recordings", "RecordingError"),
    ("liveact_models.training.recipe", "RecipeError"),
    ("liveact_models.training.run_folder", "RunError"),
    ("liveact_models.parity.golden", "ParityError"),
    ("liveact_models.portrait", "PortraitError"),
    ("liveact_models.voice.errors", "VoiceError"),
    ("liveact_models.weights.errors", "WeightsError"),
    ("liveact_services.client.decoder", "MediaError"),
    ("liveact_services.provenance.errors", "ProvenanceError"),
    ("liveact_services.sessions.server", "UnsuitableRedis"),
)
_UNAVAILABLE = (
    ("liveact_models.weights.errors", "HubUnavailable"),
    ("liveact_models.training", "MissingExtra"),
    ("liveact_services.sessions.embedded", "EmbeddedValkeyError"),
    ("liveact_services.errors", "ServiceError"),
    ("liveact_services.service", "ServiceStartError"),
    ("redis.exceptions", "ConnectionError"),
)
_REFUSED = frozenset(
    {
        "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION", "OUT_OF_RANGE", "PERMISSION_DENIED",
        "UNAUTHENTICATED",
    }
)  # fmt: skip
"""The server answered, and what was sent to it has to change."""


def explain(error: Exception) -> tuple[ExitCode, str]:
    """The exit code and one line for this error; what nobody foresaw is INTERNAL with an incident number."""
    if isinstance(error, CheckFailed):
        return ExitCode.CHECK_FAILED, str(error)
    if isinstance(error, (Unavailable, *_loaded(_UNAVAILABLE))):
        return ExitCode.UNAVAILABLE, str(error)
    if isinstance(error, (BadInput, *_loaded(_BAD_INPUT))):
        return ExitCode.BAD_INPUT, str(error)
    if isinstance(error, _loaded((("liveact_services.errors", "ClientError"),))):
        refused = error.code.name in _REFUSED  # type: ignore[attr-defined]
        return ExitCode.BAD_INPUT if refused else ExitCode.UNAVAILABLE, str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return ExitCode.BAD_INPUT, f"{error.filename}: {error.strerror}"
    incident = secrets.token_hex(4)
    what = " ".join(str(error).split()) or "no message"
    return (
        ExitCode.INTERNAL,
        f"internal error, incident {incident}: {type(error).__name__}: {what} (--debug shows where)",
    )


def _loaded(names: tuple[tuple[str, str], ...]) -> tuple[type[Exception], ...]:
    return tuple(getattr(sys.modules[module], name) for module, name in names if module in sys.modules)
