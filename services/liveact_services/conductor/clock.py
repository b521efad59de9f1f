"""When a block is due: the wall clock on which a session's frames are shown."""

from __future__ import annotations

from collections.abc import Callable

from liveact_models.timeline import block_frames, block_seconds

MARGIN_S = 0.15
"""Added to the measured time of a block: what a busy machine may take more."""
PLAYOUT_MARGIN_S = 0.35
"""Added to what a player must buffer: what the blocks' way to it may vary."""
RESTART_S = 0.5
"""How soon a block is wanted for which the viewer already waits: the first, and one after the clock stood still."""


class PlayClock:
    """Tells the earliest and latest moment to start a block in real-time pacing.

    Frame 0 is shown `playout_delay` after it was delivered. A block is started no later than its own showing less the time a
    block has been taking, and, where that leaves room, no earlier than its predecessor is shown, so that the server is at
    most one block ahead. A block delivered late moves the clock: the viewer has waited, everything after is shown later.
    """

    def __init__(self, fps: int, now: Callable[[], float]) -> None:
        self.fps = fps
        self.now = now
        self.origin: float | None = None
        self.stalls = 0
        self.stalled_s = 0.0
        self._first: int = 0
        self._start: float | None = None
        """The first block there is for this clock, and the media time at which that goes on; None: where the block starts."""
        self._block_s = 0.0
        self._tail_s = 0.0
        """From a block's latents to its first frame, as it has been taking."""

    @property
    def playout_delay(self) -> float:
        """Seconds a player buffers before frame 0: block 0 is shorter than the sound block 1 has to wait for."""
        return block_seconds(1, self.fps) - block_seconds(0, self.fps) + PLAYOUT_MARGIN_S

    def shown_at(self, block: int) -> float | None:
        """When the block's first frame is due on the viewer's screen; None before anything was delivered."""
        return None if self.origin is None else self.origin + block_frames(block).start / self.fps

    def earliest(self, block: int) -> float:
        """Not before this moment; -inf for the first block, inf for others before anything was delivered."""
        if block == self._first:
            return float("-inf")
        shown = self.shown_at(block - 1)
        return float("inf") if shown is None else min(shown, self.latest(block))

    def latest(self, block: int) -> float:
        """Started after this moment the block would probably be late; -inf before anything was delivered."""
        shown = self.shown_at(block)
        return float("-inf") if shown is None else shown - 1.25 * self._block_s - MARGIN_S

    def go_on(self, frame: int, block: int) -> None:
        """Begin anew with this frame, of that block: it is shown as frame 0 would be, `playout_delay` after it was delivered."""
        self.origin, self._first, self._start = None, block, frame / self.fps

    def due_s(self, block: int) -> float:
        """Seconds from now until the block's latents are wanted, for it to be shown in time."""
        shown = self.shown_at(block)
        left = float("-inf") if shown is None else shown - self._tail_s - MARGIN_S - self.now()
        return left if left > 0 else RESTART_S

    def delivered(self, block: int, started: float, tail_s: float = 0.0) -> None:
        """The first frames of the block, started at `started`, have gone out now; `tail_s` after its latents were there."""
        took = self.now() - started
        self._tail_s = max(0.7 * self._tail_s + 0.3 * tail_s, 0.5 * tail_s)
        # At once up and slowly down: on a device shared with others the next block may have to wait as long as the slowest.
        self._block_s = max(took, 0.9 * self._block_s + 0.1 * took)
        self.sent(block)

    def sent(self, block: int) -> None:
        """The first frames of the block have gone out now, made for it or not."""
        moment = self.now()
        due = self.shown_at(block)
        if self.origin is None or due is None:
            start = block_frames(block).start / self.fps if self._start is None else self._start
            self.origin = moment + self.playout_delay - start
        elif moment > due:
            self.stalls += 1
            self.stalled_s += moment - due
            self.origin += moment - due
