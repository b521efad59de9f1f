"""What `liveact evaluate` runs: each suite lets contenders perform clips and turns what the judge saw into rows."""

from liveact_models.evaluate.suites.drift import drift_suite
from liveact_models.evaluate.suites.lips import lips_suite, phoneme_rows
from liveact_models.evaluate.suites.prompts import prompts_suite
from liveact_models.evaluate.suites.published import published_suite
from liveact_models.evaluate.suites.result import Progress, Row, SuiteResult
from liveact_models.evaluate.suites.scenes import Scene, Script, Speaker, scenes

__all__ = [
    "Progress", "Row", "Scene", "Script", "Speaker", "SuiteResult", "drift_suite", "lips_suite", "phoneme_rows", "prompts_suite",
    "published_suite", "scenes",
]  # fmt: skip
