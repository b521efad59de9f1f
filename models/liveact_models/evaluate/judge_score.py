"""How well a judge reads rendered people it was not trained on: what its verdicts are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from liveact_models.evaluate.judge import POSE, Judge, Sight
from liveact_models.evaluate.judge_training import FPS, performance
from liveact_models.evaluate.lips import Agreement, agreement, agreements
from liveact_models.evaluate.wishes import WITHIN, seen_actions, seen_emotions
from liveact_models.world.identity import Identity
from liveact_models.world.motion import ACTIONS, EMOTIONS

SEED_UNSEEN = 72
"""Of the people, none of whom are those of the training or of `world.clip`."""
_SETTLED = FPS
_LENGTH = _SETTLED + WITHIN


@dataclass(frozen=True)
class JudgeScore:
    """Of videos of 84 frames, one a person, every emotion and action equally often."""

    people: int
    mouth: dict[str, Agreement]
    pose: dict[str, float]
    """Correlation of every value of the pose."""
    emotion: float
    """Share of windows whose emotion is named right."""
    action: float
    identity: float
    """Share of pairs of frames of one person that are nearer than the same frame and one of the next person."""
    place_error: float
    """Mean distance of the mouth found from the mouth drawn, in pixels of a picture of 128."""


def score_judge(judge: Judge, people: int = 40, seed: int = SEED_UNSEEN, size: int = 128) -> JudgeScore:
    """Let the judge look at people drawn at `size` pixels who say phonemes in no order."""
    from liveact_models.world.draw import draw, mouth_box

    true_mouths, true_poses, true_places, sights, felt, done = [], [], [], [], [], []
    for person in range(people):
        rng = np.random.default_rng([seed, person])
        emotion, action = person % len(EMOTIONS), (person + person // len(EMOTIONS)) % len(ACTIONS)
        identity = Identity.sample(rng)
        motion, mouth = performance(rng, _LENGTH, emotion, action)
        states = [motion.state(at) for at in range(_LENGTH)]
        sight = judge.see(np.stack([draw(identity, state, size, size) for state in states]))
        boxes = np.array([mouth_box(identity, state) for state in states])
        true_mouths.append(mouth)
        true_poses.append(np.array([[getattr(state, name) for name in POSE] for state in states]))
        true_places.append((boxes[:, :2] + boxes[:, 2:]) / 2)
        sights.append(sight)
        felt.append(seen_emotions(sight, _SETTLED, _LENGTH) == emotion)
        done.append(seen_actions(judge, sight, _SETTLED, _LENGTH) == action)
    return JudgeScore(
        people=people,
        mouth=agreements(true_mouths, [sight.mouth for sight in sights]),
        pose={
            name: agreement([pose[:, at] for pose in true_poses], [sight.pose[:, at] for sight in sights]).r
            for at, name in enumerate(POSE)
        },
        emotion=float(np.mean(felt)),
        action=float(np.mean(done)),
        identity=_told_apart(sights),
        place_error=float(
            np.mean(
                [
                    np.linalg.norm(sight.place - place, axis=1) * 128
                    for sight, place in zip(sights, true_places, strict=True)
                ]
            )
        ),
    )


def _told_apart(sights: list[Sight]) -> float:
    near = [(sight.identity[:-FPS] * sight.identity[FPS:]).sum(axis=1) for sight in sights]
    far = [
        (one.identity[:-FPS] * other.identity[FPS:]).sum(axis=1)
        for one, other in zip(sights, sights[1:] + sights[:1], strict=True)
    ]
    return float(np.mean(np.concatenate(near) > np.concatenate(far)))
