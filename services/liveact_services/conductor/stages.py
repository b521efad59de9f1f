"""The values that pass between the Conductor and the stages, and the seam itself.

Nothing here knows Ray or gRPC: a stage is something awaitable, whether it runs in this process or on another node.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from liveact_models.voice import BlockVoice
    from liveact_services.conductor.parts import Moved
    from liveact_services.watermark.corner import Corner


class Codec(StrEnum):
    """How a frame is encoded (liveact.v1.VideoCodec)."""

    H264 = "h264"
    JPEG = "jpeg"
    RGB = "rgb"


class Pacing(StrEnum):
    """When frames are made (liveact.v1.Pacing)."""

    REALTIME = "realtime"
    FASTEST = "fastest"


class Idle(StrEnum):
    """What is shown while nobody speaks (liveact.v1.IdlePolicy)."""

    ANIMATE = "animate"
    HOLD = "hold"
    LOOP = "loop"


BACKGROUND = 1e-3
"""The size of a session that takes what time is left: a place and memory. Not none: a full replica has no room for it."""


@dataclass(frozen=True)
class SessionSpec:
    """What was agreed for one session; fixed for its life."""

    session: str
    width: int
    height: int
    """Picture size in pixels."""
    fps: int
    codec: Codec
    pacing: Pacing
    idle: Idle
    seed: int
    prompt: str
    rate: int
    """Samples a second of the voice, both ways."""
    tenant: str = "default"
    weight: float = 1.0
    """The tenant's share of a contended Denoiser, relative to other tenants'."""
    pool: str = "default"
    """The Denoisers meant for it."""
    label: str = ""
    """Words in a corner of every picture; none: no label."""
    corner: Corner = "bottom-right"
    mark: str = ""
    """The id whose beginning is hidden in every picture; none: no mark."""
    trace: str = field(default="", compare=False)
    """The span of the call that began it, as a traceparent; it agrees to nothing."""

    @property
    def size(self) -> float:
        """How much it asks of a Denoiser, roughly: a million pixels a second; of one in the background next to nothing."""
        return BACKGROUND if self.pacing is Pacing.FASTEST else self.width * self.height * self.fps / 1e6

    @property
    def watermark(self) -> str:
        """The kinds of marks that its pictures carry: "visible", "invisible", both or nothing."""
        return " ".join(kind for kind, there in (("visible", self.label), ("invisible", self.mark)) if there)


@dataclass(frozen=True)
class BlockPlan:
    """One block, ready to be made: everything it depends on beside the session's own value."""

    block: int
    voice: BlockVoice
    prompt: str | None = None
    """Set when the prompt changes with this block."""
    due_s: float | None = None
    """Seconds from its submission until its latents are wanted, so that it means the same by another machine's clock; None:
    nobody waits for a moment."""
    backward: bool = False
    """Whether its frames are wanted from last to first as well."""
    trace: str = field(default="", compare=False)
    """The block's span as a traceparent; "" where it is not traced."""


@dataclass(frozen=True)
class EncodedFrame:
    """One frame as it leaves the VaeDecoder."""

    index: int
    key: bool
    data: bytes


@dataclass(frozen=True)
class Features:
    """A block's sound as the transformer hears it, and what it cost."""

    array: np.ndarray
    """float32 [frames + 4, layers, dim]: the block's frames and two more on either side"""
    audio_s: float
    held_s: float = 0.0
    """From the call to the answer at the AudioEncoder, waiting included: so much of the block's time is gone."""


@dataclass(frozen=True)
class Denoised:
    """A block's latents, and what it cost to get so far."""

    latents: np.ndarray
    """float32 [16, 6 or 8, H/8, W/8]"""
    audio_s: float
    denoise_s: float


@dataclass(frozen=True)
class StageTimes:
    """Seconds of work behind a part: its own decoding and encoding; the first part of a block carries the block's others."""

    audio_s: float = 0.0
    denoise_s: float = 0.0
    decode_s: float = 0.0
    encode_s: float = 0.0

    def __add__(self, other: StageTimes) -> StageTimes:
        return StageTimes(
            self.audio_s + other.audio_s, self.denoise_s + other.denoise_s,
            self.decode_s + other.decode_s, self.encode_s + other.encode_s,
        )  # fmt: skip


@dataclass(frozen=True)
class VideoPart:
    """The frames of one latent frame, and what they cost."""

    block: int
    frames: tuple[EncodedFrame, ...]
    times: StageTimes
    backward: tuple[EncodedFrame, ...] = ()
    """With a block's last part, where the plan asks: all of the block's frames from last to first, encoded by themselves."""


@dataclass(frozen=True)
class Boundary:
    """Where a part of a session stands that is to leave its replica."""

    block: int
    """The block that comes next."""
    saved: bool
    """Whether its value is in the Vault."""
    finishing_s: float = 0.0
    """Seconds until the block that was being made was finished, which are no stall."""


class Stages(Protocol):
    """The graph as one stream sees it."""

    @property
    def replicas(self) -> tuple[str, str]:
        """Ids of the Denoiser and VaeDecoder replicas that hold the session; empty in one process."""

    def listen(self, listener: Callable[[Moved], None]) -> None:
        """Have this called whenever the session has moved to other replicas."""

    async def open(self, spec: SessionSpec, portrait: np.ndarray | None) -> None:
        """Condition the session and place it. `portrait`: float32 [3, H, W] in [-1, 1]; none for one that goes on."""

    def submit(self, plan: BlockPlan) -> AsyncIterator[VideoPart]:
        """Start the block now; its parts arrive in order. Blocks are submitted in order, two at most unfinished."""

    async def keep(self) -> None:
        """Say that a session without blocks is still wanted. Raises what `submit` would when it is held no more."""

    async def pack(self) -> None:
        """Have the session's value, as it is about now, be where another cluster finds it; not for longer than a moment."""

    async def close(self) -> None:
        """Forget the session everywhere."""

    def let_go(self) -> None:
        """Forget the session here: it is another owner's."""

    async def release(self) -> None:
        """After `let_go`: have the replicas forget it too, where that owner does not need them."""
