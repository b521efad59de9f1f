"""What a session is between two blocks, beside what its replicas hold: written down so that another process goes on from it.

A `Page` is one block as it was planned, with the state of the session after that. As bytes it is one `liveact_models.blob`:
versioned, checksummed, and readable without this code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from liveact_models import blob
from liveact_models.blob import StateError
from liveact_models.voice import BlockVoice
from liveact_services.conductor.outputs import Event, Happening, Sound
from liveact_services.conductor.stages import BlockPlan, Codec, EncodedFrame, Idle, Pacing, SessionSpec

VERSION = 1
"""Of what stands in a page's header; `blob` has one of its own for the rest."""
OPENING, PORTRAIT = "opening", "portrait"
"""The pages that are no block's."""


@dataclass(frozen=True)
class Position:
    """How far into the client's requests a state stands, counted as `Session.next_request` is."""

    request: int = 0
    """The first request that is not wholly in the state."""
    piece: int = 0
    """`AudioChunk.sequence` of the next piece of voice from there on."""
    samples: int = 0
    """Samples of that piece which are in the state all the same."""


@dataclass(frozen=True)
class SpeechState:
    """`Speech`, as far as the requests before a position have made it."""

    buffer: Mapping[str, np.ndarray]
    """As `VoiceBuffer.snapshot` gives it."""
    spans: tuple[tuple[str, int, int, int], ...] = ()
    names: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    idle: bool = True
    head: str | None = None
    """The utterance that has begun and not ended, for which there may be more voice."""
    flowing: bool = False
    """Whether its voice reaches the end of what is written."""


@dataclass(frozen=True)
class State:
    """A Conductor after it planned a block."""

    position: Position
    received: int
    """Requests taken in by then: an interrupt or a prompt before this number has acted on the state, wherever it stands."""
    planned: int
    made: int
    numbers: tuple[tuple[int, int], ...]
    prompts: tuple[tuple[float, str], ...]
    finishing: bool
    acked: int
    quiet: int
    """Quiet blocks in a row, for the policy LOOP."""
    speech: SpeechState

    @classmethod
    def begun(cls, speech: SpeechState) -> State:
        """Before the first block."""
        return cls(Position(), 0, 0, 0, (), (), False, 0, 0, speech)


@dataclass(frozen=True)
class Page:
    """One block as it was planned, and the state after that."""

    block: int
    """As it is shown."""
    made: int
    """As the stages count it: for one that is only shown again, the next that is made."""
    plan: BlockPlan | None
    """None for a block that is only shown again."""
    sound: Sound
    events: tuple[Event, ...]
    utterances: tuple[str, ...]
    state: State
    frames: tuple[EncodedFrame, ...] = ()
    """Of a block that is only shown again: what is shown."""

    @property
    def name(self) -> str:
        return str(self.block)


@dataclass(frozen=True)
class Opening:
    """What was agreed when the session began."""

    spec: SessionSpec
    voice: dict[str, Any] = field(default_factory=dict)
    """How its voice bytes are read: the fields of the Gateway's `VoiceFormat`."""


# ---- as bytes ----------------------------------------------------------------------------------------------------------------


def pack_opening(opening: Opening) -> bytes:
    """The page called OPENING."""
    return blob.pack(_headed({"spec": dataclasses.asdict(opening.spec), "voice": opening.voice}), {})


def unpack_opening(page: bytes) -> Opening:
    """Raises `StateError`."""
    header, _ = _unpacked(page)
    with _Reading():
        spec = header["spec"]
        kinds = {"codec": Codec(spec["codec"]), "pacing": Pacing(spec["pacing"]), "idle": Idle(spec["idle"])}
        return Opening(SessionSpec(**{**spec, **kinds}), header["voice"])


def pack_portrait(portrait: np.ndarray) -> bytes:
    """The page called PORTRAIT: float32 [3, H, W], as it was given to the stages."""
    return blob.pack(_headed({}), {"portrait": torch.from_numpy(np.ascontiguousarray(portrait))})


def unpack_portrait(page: bytes) -> np.ndarray:
    """Raises `StateError`."""
    _, arrays = _unpacked(page)
    with _Reading():
        return arrays["portrait"]


def pack_page(page: Page) -> bytes:
    """A block's page."""
    arrays = {f"buffer.{name}": array for name, array in page.state.speech.buffer.items()}
    arrays["sound"] = page.sound.samples
    header: dict[str, Any] = {
        "block": page.block, "made": page.made, "at_s": page.sound.at_s, "utterances": page.utterances,
        "events": [dataclasses.asdict(event) for event in page.events],
        "state": _without(dataclasses.asdict(dataclasses.replace(page.state, speech=_bare(page.state.speech)))),
        "frames": [[frame.index, frame.key, len(frame.data)] for frame in page.frames],
    }  # fmt: skip
    if page.frames:
        arrays["frames"] = np.frombuffer(b"".join(frame.data for frame in page.frames), np.uint8).copy()
    if (plan := page.plan) is not None:
        arrays["heard"] = plan.voice.samples
        header["plan"] = {
            "prompt": plan.prompt, "due_s": plan.due_s, "backward": plan.backward,
            "voice": [plan.voice.rate, plan.voice.fps, plan.voice.mean, plan.voice.std],
        }  # fmt: skip
    return blob.pack(_headed(header), {name: torch.from_numpy(a) for name, a in arrays.items()})


def unpack_page(page: bytes) -> Page:
    """Raises `StateError`: what `blob.unpack` finds, or STATE_FORMAT for a page that is not a block's."""
    header, arrays = _unpacked(page)
    with _Reading():
        block, made, state = header["block"], header["made"], header["state"]
        plan = None
        if (told := header.get("plan")) is not None:
            voice = BlockVoice(arrays["heard"], *told["voice"])
            plan = BlockPlan(made, voice, told["prompt"], told["due_s"], told["backward"])
        at, frames = 0, []
        for index, key, size in header["frames"]:
            frames.append(EncodedFrame(index, key, arrays["frames"][at : at + size].tobytes()))
            at += size
        speech = state.pop("speech")
        buffer = {name.removeprefix("buffer."): a for name, a in arrays.items() if name.startswith("buffer.")}
        return Page(
            block=block, made=made, plan=plan, sound=Sound(block, header["at_s"], arrays["sound"]),
            events=tuple(Event(**{**event, "kind": Happening(event["kind"])}) for event in header["events"]),
            utterances=tuple(header["utterances"]), frames=tuple(frames),
            state=State(
                position=Position(**state.pop("position")),
                numbers=_pairs(state.pop("numbers")), prompts=_pairs(state.pop("prompts")),
                speech=SpeechState(
                    buffer, _pairs(speech.pop("spans")), tuple(speech.pop("names")), tuple(speech.pop("dropped")), **speech
                ),
                **state,
            ),
        )  # fmt: skip


def _headed(header: dict[str, Any]) -> dict[str, Any]:
    return {"journal": VERSION, **header}


def _unpacked(page: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    header, tensors = blob.unpack(page)
    if header.get("journal") != VERSION:
        raise StateError("STATE_VERSION", f"journal version {header.get('journal')!r}: accepted is {VERSION}")
    return header, {name: tensor.numpy() for name, tensor in tensors.items()}


class _Reading:
    """Turns what a page lacks into `StateError`."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, KeyError | TypeError | ValueError | AttributeError) and not isinstance(error, StateError):
            raise StateError("STATE_FORMAT", f"a page does not read: {type(error).__name__}: {error}") from None


def _bare(speech: SpeechState) -> SpeechState:
    return dataclasses.replace(speech, buffer={})


def _without(state: dict[str, Any]) -> dict[str, Any]:
    del state["speech"]["buffer"]
    return state


def _pairs(lists: Any) -> Any:
    return tuple(tuple(item) for item in lists)
