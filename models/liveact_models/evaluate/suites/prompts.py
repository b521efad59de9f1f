"""Suite `prompts`: is an emotion or action seen within two blocks of its prompt, and do the lips go on following the voice?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from liveact_models.evaluate.contenders import Contender, Frames, Rendered, video
from liveact_models.evaluate.judge import Judge, Sight
from liveact_models.evaluate.lips import agreement
from liveact_models.evaluate.sheet import write_sheet
from liveact_models.evaluate.suites.result import Progress, Row, SuiteResult, quiet
from liveact_models.evaluate.suites.scenes import FIRST_SEED, SPLIT
from liveact_models.evaluate.wishes import WITHIN, wish_seen
from liveact_models.timeline import block_frames
from liveact_models.world.clip import Clip, make_clip
from liveact_models.world.motion import ACTIONS, EMOTIONS

NOTHING = (EMOTIONS[0], ACTIONS[0])
WISHES = (*((emotion, ACTIONS[0]) for emotion in EMOTIONS[1:]), *((EMOTIONS[0], action) for action in ACTIONS[1:]))
ASKED_BLOCK = 2
"""The first block that knows of the wish."""


@dataclass
class _Tally:
    """Of one contender, what was seen of one wish."""

    seen: list[bool] = field(default_factory=list)
    false: list[bool] = field(default_factory=list)
    """Whether it was seen although nothing was asked for."""
    edited: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)
    """True and seen opening while the wish stands."""
    plain: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = field(default_factory=list)

    def row(self, contender: str, wish: str) -> Row:
        edited, plain = (
            agreement([true for true, _ in pairs], [seen for _, seen in pairs]).r for pairs in (self.edited, self.plain)
        )
        return {
            "contender": contender, "wish": wish, "clips": len(self.seen), "seen": float(np.mean(self.seen)),
            "seen unasked": float(np.mean(self.false)), "open r edited": edited, "open r plain": plain,
            "change": edited - plain,
        }  # fmt: skip

    def add(self, other: _Tally) -> None:
        for name in ("seen", "false", "edited", "plain"):
            getattr(self, name).extend(getattr(other, name))


def prompts_suite(
    contenders: Sequence[Contender],
    clips_each: int,
    judge: Judge,
    out: Path,
    *,
    size: int = 128,
    seed: int = FIRST_SEED,
    wishes: Sequence[tuple[str, str]] = WISHES,
    progress: Progress = quiet,
) -> SuiteResult:
    """Every wish, an emotion or an action, asked for in `clips_each` clips, and the same clips without one.

    Rows: for the truth (what the judge can see at all) and every contender all wishes together, emotions, actions and each
    wish by itself. "seen unasked" is how often the same is seen in the same clips with nothing asked for.
    """
    asked = block_frames(ASKED_BLOCK).start
    rows: list[Row] = []
    shots: list[tuple[str, Sequence[Frames] | Frames]] = []
    for contender in (Rendered(), *contenders):
        tallies = {wish: _Tally() for wish in wishes}
        for number in range(clips_each):
            plain = _perform(contender, judge, seed + number, size, None)
            for done, wish in enumerate(wishes, start=number * len(wishes) + 1):
                edited = _perform(contender, judge, seed + number, size, wish)
                _count(tallies[wish], judge, plain, edited, wish, asked)
                if number == 0:
                    shots.append((f"{contender.name}: {_name(wish)}", edited.frames[asked :: WITHIN // 8]))
                progress(contender.name, done, clips_each * len(wishes))
        rows += _rows(contender.name, tallies)
    sheet = write_sheet(shots, out / "prompts.png", f"two blocks from the prompt on, every {WITHIN // 8}th frame")
    settings = {"clips_each": clips_each, "size": size, "first_seed": seed, "asked_at_frame": asked}
    return SuiteResult("prompts", rows, settings, [sheet])


@dataclass(frozen=True)
class _Take:
    clip: Clip
    frames: Frames
    sight: Sight


def _perform(contender: Contender, judge: Judge, seed: int, size: int, wish: tuple[str, str] | None) -> _Take:
    asked = block_frames(ASKED_BLOCK).start
    cues = [(0, *NOTHING), *([(asked, *wish)] if wish else [])]
    clip = make_clip(seed, asked + WITHIN, SPLIT, size, asked=cues)
    frames = video(contender, clip)
    return _Take(clip, frames, judge.see(frames))


def _count(tally: _Tally, judge: Judge, plain: _Take, edited: _Take, wish: tuple[str, str], asked: int) -> None:
    tally.seen.append(wish_seen(judge, edited.sight, asked, *wish))
    tally.false.append(wish_seen(judge, plain.sight, asked, *wish))
    for pairs, take in ((tally.edited, edited), (tally.plain, plain)):
        pairs.append((take.clip.mouth[asked:, 0], take.sight.mouth[asked:, 0]))


def _rows(contender: str, tallies: dict[tuple[str, str], _Tally]) -> list[Row]:
    everything, emotions, actions = _Tally(), _Tally(), _Tally()
    for wish, tally in tallies.items():
        everything.add(tally)
        (emotions if wish[1] == ACTIONS[0] else actions).add(tally)
    summed = (("everything", everything), ("emotions", emotions), ("actions", actions))
    named = ((_name(wish), tally) for wish, tally in tallies.items())
    return [tally.row(contender, name) for name, tally in (*summed, *named) if tally.seen]


def _name(wish: tuple[str, str]) -> str:
    return wish[0] if wish[1] == ACTIONS[0] else wish[1]
