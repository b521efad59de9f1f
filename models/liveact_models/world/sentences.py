"""Sentences to speak: plain English drawn from a grammar, wide in its sounds, in two splits that share no sentence."""

from __future__ import annotations

import string
import zlib
from typing import Literal

import numpy as np

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
_TEST_SHARE = 8
"""One sentence in so many is a test sentence, told by a checksum of its text: no list has to be kept."""

_WORDS: dict[str, str] = {
    "who": "my brother|the old baker|a young nurse|our neighbour|the pilot|Mary|Victor|my aunt Zoe|the shy boy|a famous judge|"
    "the whole village|Doctor Woods|the postman|her cousin|the girl with the violin|a quiet fisherman|your teacher|Philip|"
    "the mayor of Oxford|both children|everyone here|the crew|an engineer|the choir|Joan|a visitor from Peru|the youngest player",
    "did": "bought|found|painted|carried|watched|lost|mended|forgot|washed|borrowed|noticed|chose|threw away|described|"
    "brought back|measured|gave away|photographed|invented|covered|polished|wrapped up|enjoyed|refused|weighed|pushed|shook",
    "what": "a blue umbrella|the broken clock|five fresh loaves|a pair of brown boots|the garden chair|some warm soup|"
    "a very long letter|the map of the valley|a bunch of purple flowers|the wooden box|three small boats|an orange scarf|"
    "the measuring tape|a huge pumpkin|the vase by the window|my favourite mug|the thin yellow book|a bowl of cherries|"
    "the machine|a bag of walnuts|the film about foxes|a jug of milk|the judge's watch|two cups of tea|a silver bell",
    "where": "in the kitchen|by the river|behind the church|at the market|on the roof|near the old bridge|under the table|"
    "outside the theatre|in a small shop|at the top of the hill|along the beach|in the forest|beside the railway|"
    "on the other side of town|between two houses|above the harbour|in the museum|at the edge of the field",
    "when": "this morning|last Thursday|before breakfast|after the storm|in the middle of the night|a week ago|on Friday evening|"
    "during the holidays|just before five|every Wednesday|when the bell rang|while it was raining|in early spring|at noon",
    "how": "very slowly|with great care|without a word|as quickly as possible|for the first time|all alone|together|"
    "with both hands|by mistake|cheerfully|with a smile|in silence|rather badly|once again|for almost nothing",
    "is": "quiet|beautiful|heavier than it looks|nearly finished|too expensive|full of surprises|easy to use|rough and cold|"
    "warm enough|impossible to open|ready for you|much cheaper now|worth a visit|open until nine|perfectly safe|half empty",
    "thing": "the weather|the village pub|that story|the new bridge|our garden|this machine|the water|the music|your idea|"
    "the theatre|my coffee|the road to the north|the view from here|the small blue door|her voice|the whole film|the picture",
    "do": "open the window|call your mother|wait for a moment|bring me the other book|turn left at the church|listen to this|"
    "show me the way|speak a little louder|choose a number|watch the birds|leave the key here|move the chair|taste the soup|"
    "push the green button|finish the puzzle|pay with cash|measure it twice|breathe in slowly|wash both cups|join us for supper",
    "place": "London|Chicago|the north coast|Bombay|Vienna|the Alps|New York|a village near Bath|Japan|Prague|Yorkshire|Havana",
    "number": "two|three|five|seven|nine|twelve|fifteen|twenty-four|thirty|forty-one|sixty|eighty-six|a hundred|two thousand",
    "unit": "miles|pounds|days|hours|people|books|apples|metres|voices|pages|boxes|weeks|questions|fish|rooms|thieves",
    "feel": "happy|surprised|worried|very proud|a bit tired|hopeful|puzzled|sorry|relieved|calm|nervous|thankful|furious",
    "hello": "Hello|Good morning|Good evening|Hi there|Welcome back|Thank you|Oh well|Right|Okay|Of course|Wow|Please|No problem|"
    "Wait|Sure|Yes|You know|Listen|Honestly|To be fair|By the way|Above all|As far as I know|For example|In my view",
    "ask": "how are you today|what would you like to hear|may I help you|shall we begin|where have you been|can you hear me|"
    "did you sleep well|which one do you prefer|why is it so quiet|who told you|what time is it|could you say that again",
    "fact": "bees visit two million flowers for a pound of honey|the moon moves away from us by a few centimetres a year|"
    "whales sing to each other over hundreds of miles|rivers shape the valleys through which they flow|"
    "glass is made of sand and fire|a good loaf needs flour, water, salt and time|owls hear a mouse beneath the snow|"
    "the oldest bridge in the city was built of wood|most people blink about fifteen times a minute|"
    "fog forms where warm air meets cold water|some trees have seen a thousand winters|chess came to Europe from Persia",
    "rhyme": "Peter picked a peck of pickled peppers|she sells sea shells by the shore|fuzzy foxes very often vanish|"
    "big black bugs bit the brown bear|which witch wished which wish|red leather, yellow leather|five frantic frogs fled|"
    "Moses supposes his toes are roses|whether the weather be cold or hot|the thirty-three thieves thought twice|"
    "my mother makes marvellous plum jam|you choose the juicy orange|how now, brown cow|beautiful babies blow bubbles",
    "join": "and|but|so|because|while|although|just as",
}
_CHOICES = {slot: tuple(words.split("|")) for slot, words in _WORDS.items()}
_TEMPLATES = (
    "{who} {did} {what} {where}.",
    "{who} {did} {what} {when}.",
    "{who} {did} {what} {where} {when}.",
    "{when}, {who} {did} {what} {how}.",
    "{who} {did} {what}, {join} {who} {did} {what}.",
    "{who} {did} {what} {how}, {join} {thing} was {is}.",
    "{thing} is {is}.",
    "{thing} is {is}, {join} {thing} is {is} too.",
    "{hello}, {thing} is {is}.",
    "{hello}, {ask}?",
    "{ask}?",
    "{hello}! {thing} was {is} {when}.",
    "Please {do}, and then {do}.",
    "Could you {do}, please?",
    "If {thing} is {is}, {do}.",
    "{do}, {join} {who} {did} {what}.",
    "It took {number} {unit} to reach {place}.",
    "We counted {number} {unit} {where} and {number} {unit} {where}.",
    "{who} came from {place} {when} with {number} {unit}.",
    "From {place} to {place} it is {number} {unit}.",
    "I was {feel} when {who} {did} {what}.",
    "{who} felt {feel} {when}, {join} {thing} was {is}.",
    "Did you know that {fact}?",
    "{hello}, {fact}.",
    "They say that {fact}, {join} {who} never believed it.",
    "{rhyme}, {rhyme}.",
    "{rhyme}, said {who}.",
    "{who} said, {rhyme}, and {did} {what}.",
    "Nobody {where} {did} {what}.",
    "What if {who} {did} {what} {where}?",
    "There were {number} {unit} {where}, and {thing} was {is}.",
    "I would rather {do} than {do}.",
    "You can {do} {when}, or {do} {how}.",
    "{number}, {number}, {number}, {do}!",
    "{hello}. {hello}.",
)


def sentences(rng: np.random.Generator, split: Split) -> str:
    """The next of endlessly many sentences of the split; one that "test" may say is never said in "train".

    Raises ValueError for a split that is neither "train" nor "test".
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: sentences are split into {' and '.join(SPLITS)}")
    while True:
        sentence = _sentence(rng)
        if (zlib.crc32(sentence.encode()) % _TEST_SHARE == 0) == (split == "test"):
            return sentence


def _sentence(rng: np.random.Generator) -> str:
    template = _TEMPLATES[rng.integers(len(_TEMPLATES))]
    parts = []
    for words, slot, _, _ in string.Formatter().parse(template):
        parts.append(words)
        if slot is not None:
            choices = _CHOICES[slot]
            parts.append(choices[rng.integers(len(choices))])
    sentence = "".join(parts)
    return sentence[0].upper() + sentence[1:]
