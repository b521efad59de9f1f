"""What is asked of a person, in many people's words: an emotion and an action as an English prompt."""

from __future__ import annotations

import numpy as np

from liveact_models.config import DEFAULT_PROMPT
from liveact_models.world.motion import ACTIONS, EMOTIONS

DEFAULT_SHARE = 0.5
"""How often nothing in particular is asked for in the words of the default prompt."""

_PEOPLE = (
    "A person", "The person", "Someone", "A woman", "A man", "The speaker", "The woman", "The man", "She", "He",
    "A young person", "A character", "The avatar", "The character",
)  # fmt: skip
_TALKS = (
    "speaks", "talks", "speaks to the camera", "talks to the camera", "speaks into the camera",
    "looks into the camera and speaks",
    "faces the camera and talks", "says something", "tells a story", "addresses the viewer", "is talking", "is speaking",
)  # fmt: skip
_TALKING = (
    "speaking",
    "talking",
    "speaking to the camera",
    "talking to us",
    "telling a story",
    "addressing the viewer",
)

_ADVERBS = {
    "neutral": ("calmly", "plainly", "evenly", "in a neutral tone", "in a matter-of-fact way", "with a calm face", "quietly"),
    "happy": (
        "happily", "cheerfully", "joyfully", "with a smile", "with a broad smile", "with a happy smile", "in a good mood",
        "with joy", "brightly", "merrily", "with delight", "in high spirits", "gladly", "while smiling", "laughingly",
    ),
    "sad": (
        "sadly", "mournfully", "in a sad way", "with a sad face", "with sorrow", "unhappily", "gloomily", "with regret",
        "in low spirits", "tearfully", "with a heavy heart", "in a sad mood", "sorrowfully", "with disappointment",
    ),
    "angry": (
        "angrily", "furiously", "with anger", "in anger", "with a frown", "in an angry tone", "with an angry face", "crossly",
        "in a rage", "with a grim look", "in a bad temper", "with irritation", "with fury", "sternly",
    ),
    "surprised": (
        "in surprise", "with surprise", "in amazement", "with raised eyebrows", "with a surprised face", "in astonishment",
        "with wide eyes", "in disbelief", "with wonder", "as if startled", "with an astonished look", "in shock",
    ),
}  # fmt: skip
_MOODS = {
    "neutral": ("calm", "neutral", "relaxed", "composed", "serious but calm"),
    "happy": ("happy", "cheerful", "joyful", "glad", "delighted", "very happy", "pleased", "merry", "amused", "smiling"),
    "sad": ("sad", "unhappy", "gloomy", "sorrowful", "very sad", "downcast", "heartbroken", "disappointed", "upset and sad"),
    "angry": ("angry", "furious", "cross", "annoyed", "very angry", "mad", "irritated", "enraged", "frowning"),
    "surprised": ("surprised", "astonished", "amazed", "startled", "very surprised", "shocked", "stunned", "astounded"),
}  # fmt: skip
_FEELINGS = {
    "neutral": ("no particular emotion", "calm", "a neutral expression"),
    "happy": ("happiness", "joy", "delight", "a happy expression", "a big smile", "cheerfulness"),
    "sad": ("sadness", "sorrow", "grief", "a sad expression", "disappointment", "unhappiness"),
    "angry": ("anger", "fury", "rage", "an angry expression", "irritation", "annoyance"),
    "surprised": ("surprise", "amazement", "astonishment", "a surprised expression", "wonder", "shock"),
}
_ORDERS = {
    "neutral": ("Stay calm", "Look neutral", "Keep a neutral face"),
    "happy": ("Smile", "Look happy", "Be happy", "Cheer up", "Be cheerful", "Give us a smile", "Show joy"),
    "sad": ("Look sad", "Be sad", "Show sadness", "Look unhappy", "Be gloomy", "Make a sad face"),
    "angry": ("Frown", "Look angry", "Be angry", "Get angry", "Show anger", "Make an angry face", "Be furious"),
    "surprised": (
        "Look surprised",
        "Be surprised",
        "Be amazed",
        "Show surprise",
        "Make a surprised face",
        "Look astonished",
    ),
}

_DOES = {
    "nod": ("nods", "nods along", "nods in agreement", "nods the head", "keeps nodding", "nods again and again", "nods yes"),
    "shake": (
        "shakes the head", "shakes their head", "shakes the head in disagreement", "keeps shaking the head", "shakes the head no",
        "shakes the head from side to side", "turns the head left and right to say no",
    ),
    "look aside": (
        "looks aside", "looks away", "looks to the side", "glances sideways", "turns the eyes away", "gazes off to the side",
        "glances away from the camera", "averts the eyes",
    ),
    "wave": (
        "waves", "waves a hand", "waves hello", "waves at the camera", "waves to the viewer", "raises a hand and waves",
        "greets us with a wave", "waves goodbye",
    ),
}  # fmt: skip
_DOING = {
    "nod": ("nodding", "nodding along", "nodding in agreement", "nodding the head"),
    "shake": (
        "shaking the head",
        "shaking their head",
        "shaking the head in disagreement",
        "shaking the head to say no",
    ),
    "look aside": ("looking aside", "looking away", "looking to the side", "glancing sideways"),
    "wave": ("waving", "waving a hand", "waving hello", "waving at the camera"),
}
_DO = {
    "nod": ("nod", "nod your head", "nod along", "nod in agreement"),
    "shake": ("shake your head", "shake your head no", "say no with your head"),
    "look aside": ("look aside", "look away", "look to the side", "glance sideways"),
    "wave": ("wave", "wave your hand", "wave hello", "wave at the camera"),
}

_MOOD_ONLY = (
    "{who} {talks} {how}.", "{who} is {mood} and {talks}.", "{who} looks {mood} and {talks}.", "{order}.",
    "{order} while you talk.",
    "A {mood} person {talks}.", "{who} {talks} and shows {feeling}.", "{feeling}", "{mood}", "{who} is {talking} {how}.",
    "{who} sounds {mood}.", "{who} seems {mood}.", "Now {mood}.", "{talking} {how}",
)  # fmt: skip
_ACTION_ONLY = (
    "{who} {talks} and {does}.", "{who} {does} while {talking}.", "{who} {does}.", "{do}.", "{do} while you talk.",
    "{who} {talks}, {doing}.",
    "{doing}", "{who} is {talking} and {doing}.", "{who} {does} and {talks}.",
)  # fmt: skip
_BOTH = (
    "{who} {talks} {how} and {does}.", "{who} {does} while {talking} {how}.", "{order} and {do}.",
    "A {mood} person {talks}, {doing}.",
    "{who} looks {mood}, {talks} and {does}.", "{mood}, {doing}", "{who} is {mood} and {does}.", "{who} {does} {how}.",
    "{who} {does} with {feeling}.", "{order} while {doing}.",
)  # fmt: skip
_NEITHER = (
    "{who} {talks}.", "{who} {talks} {how}.", "{who} is {talking}.", "{who} looks {mood} and {talks}.", "{order}.",
    "A {mood} person {talks}.", "{mood}", "Just talk.", "{talking}", "{who} {talks} and keeps the head still.",
)  # fmt: skip


def prompt(emotion: str, action: str, rng: np.random.Generator) -> str:
    """A prompt that asks for this emotion and this action, in one of some tens of thousands of wordings.

    Neutral without an action is `DEFAULT_PROMPT` in half of the cases. Raises `ValueError` for an unknown emotion or action.
    """
    for value, accepted in ((emotion, EMOTIONS), (action, ACTIONS)):
        if value not in accepted:
            raise ValueError(f"{value!r}: accepted are {', '.join(accepted)}")
    calm, still = emotion == EMOTIONS[0], action == ACTIONS[0]
    if calm and still and rng.random() < DEFAULT_SHARE:
        return DEFAULT_PROMPT
    forms = _NEITHER if calm and still else _ACTION_ONLY if calm else _MOOD_ONLY if still else _BOTH
    words = {
        "who": _PEOPLE, "talks": _TALKS, "talking": _TALKING, "how": _ADVERBS[emotion], "mood": _MOODS[emotion],
        "feeling": _FEELINGS[emotion], "order": _ORDERS[emotion],
        "does": _DOES.get(action, ()), "doing": _DOING.get(action, ()), "do": _DO.get(action, ()),
    }  # fmt: skip
    chosen = {slot: _pick(options, rng) for slot, options in words.items() if options}
    return _sentence(_pick(forms, rng).format(**chosen), rng)


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _sentence(text: str, rng: np.random.Generator) -> str:
    """With a capital letter and `an` before a vowel, or, now and then, as hastily as people type."""
    for vowel in "aeiou":
        text = text.replace(f"A {vowel}", f"An {vowel}")
    text = text[0].upper() + text[1:]
    return text.lower().rstrip(".") if rng.random() < 0.15 else text
