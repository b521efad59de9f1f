"""Suite `lips` (and `steps`): does the mouth that is seen say what is heard?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from liveact_models.evaluate.contenders import Autoencoder, Contender, Rendered, WrongVoice
from liveact_models.evaluate.judge import Judge
from liveact_models.evaluate.phonemes import best_shift, hear, phoneme_report, shifted
from liveact_models.evaluate.sheet import write_sheet
from liveact_models.evaluate.suites.result import Progress, Row, SuiteResult, quiet
from liveact_models.evaluate.suites.scenes import Measured, Scene, Script, Speaker, measure, scenes, sheet_rows
from liveact_models.world.mouth import MOUTH
from liveact_models.world.voices import Voice

SHEET_SCENES = 4
TRAINED = "trained"


def lips_suite(
    contenders: Sequence[Contender],
    groups: Mapping[str, Sequence[Speaker]],
    script: Script,
    judge: Judge,
    out: Path,
    *,
    name: str = "lips",
    autoencoder: Autoencoder | None = None,
    wrong_voice: bool = True,
    phonemes: bool = True,
    progress: Progress = quiet,
) -> SuiteResult:
    """Every contender on every group of voices, beside the truth, the autoencoder alone and the first one on a wrong voice.

    Args:
        contenders: the first one is the model that the suite is about.
        groups: voices by the name of their group.
        script: how many sentences a group has, and how long.
        judge: who looks.
        out: folder for the sheet.
        name: of the suite.
        phonemes: let hama judge too, which needs the extra `train`.
    """
    rows: list[Row] = []
    pictures: list[Path] = []
    for number, (group, voices) in enumerate(groups.items()):
        played = scenes(script, voices, first=number * script.count)
        yardsticks: list[Contender] = [Rendered(), *([autoencoder] if autoencoder else [])]
        # What the truth and the autoencoder score does not depend on who speaks: one group tells.
        performing = [*(yardsticks if number == 0 else yardsticks[:1]), *contenders]
        shots = SHEET_SCENES if number == 0 else 2
        measured = [measure(one, played, judge, shots, progress) for one in performing]
        if wrong_voice:
            measured.append(measure(_deaf(contenders[0], played), played, judge, 0, progress))
        heard = phoneme_rows(measured) if phonemes else [{} for _ in measured]
        rows += [one.row(voices=group) | spoken for one, spoken in zip(measured, heard, strict=True)]
        sheet = [one for one in measured if one.shots and one.name != Rendered.name]
        pictures.append(
            write_sheet(sheet_rows(sheet), out / f"{name}-{group.replace(' ', '-')}.png", f"{group} voices")
        )
    voiced = {
        group: [voice.name if isinstance(voice, Voice) else voice for voice in voices]
        for group, voices in groups.items()
    }
    return SuiteResult(name, rows, {"script": asdict(script), "voices": voiced}, pictures)


def _deaf(contender: Contender, played: Sequence[Scene]) -> Contender:
    """The contender with every scene's voice heard in the scene before."""
    before = [played[-1], *played[:-1]]
    voices = {scene.clip.seed: other.clip.utterance for scene, other in zip(played, before, strict=True)}
    return WrongVoice(contender, voices)


def phoneme_rows(measured: Sequence[Measured]) -> list[Row]:
    """What hama says of each; its times are first brought in line with the truth."""
    truth = [scene.clip.mouth for scene in measured[0].scenes]
    heard = [hear(scene.clip.samples) for scene in measured[0].scenes]
    seconds = best_shift(heard, truth)
    heard = [shifted(phones, seconds) for phones in heard]
    reports = [phoneme_report(heard, one.mouths) for one in measured]
    return [
        {
            "hama open r": report.agreement[MOUTH[0]].r, "hama lag": report.agreement[MOUTH[0]].lag,
            "hama closes": report.closes, "hama rounds": report.rounds,
        }
        for report in reports
    ]  # fmt: skip
