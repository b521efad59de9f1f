"""Prompts of the synthetic world: each asks for its own emotion and action, in many wordings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from liveact_models.config import DEFAULT_PROMPT
from liveact_models.world.captions import prompt
from liveact_models.world.motion import ACTIONS, EMOTIONS

WISHES = list(itertools.product(EMOTIONS, ACTIONS))


def wordings(emotion: str, action: str, count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [prompt(emotion, action, rng) for _ in range(count)]


def test_no_wording_asks_for_two_things():
    asked: dict[str, tuple[str, str]] = {}
    for wish in WISHES:
        for text in wordings(*wish, 150):
            assert asked.setdefault(text.lower().rstrip("."), wish) == wish


@pytest.mark.parametrize("wish", WISHES)
def test_a_prompt_is_plain_english(wish):
    for text in wordings(*wish, 60):
        assert not set("{}_") & set(text)
        assert text == " ".join(text.split())
        words = text.lower().replace(",", "").rstrip(".").split()
        for article, word in itertools.pairwise(words):
            assert not (article == "a" and word[0] in "aeiou")
            assert not (article == "an" and word[0] not in "aeiou")


def test_wordings_are_many():
    assert len(set(wordings("happy", "wave", 400))) > 350


def test_nothing_asked_for_is_the_default_prompt_in_half_of_the_cases():
    texts = wordings("neutral", "none", 1000)
    assert 0.45 < texts.count(DEFAULT_PROMPT) / len(texts) < 0.55
    assert all(DEFAULT_PROMPT not in wordings(*wish, 30) for wish in WISHES[1:])


def test_the_same_draws_give_the_same_prompt():
    first, second = (prompt("sad", "nod", np.random.default_rng(5)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("emotion", "action"), [("bored", "nod"), ("sad", "jump")])
def test_an_unknown_wish_is_named(emotion, action):
    with pytest.raises(ValueError, match=r"'(bored|jump)': accepted are (neutral|none), "):
        prompt(emotion, action, np.random.default_rng(0))
