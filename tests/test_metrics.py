"""Metrics: declared once, counted where they arise, named in dashboards, alerts and documents as they are."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from conftest import ROOT
from liveact_models.timeline import block_frames
from liveact_services.conductor.clock import PlayClock
from liveact_services.conductor.outputs import Event, Happening, Sound, Video
from liveact_services.conductor.stages import EncodedFrame, Pacing, StageTimes, VideoPart
from liveact_services.errors import REASONS, fail
from liveact_services.gateway.call_meter import StreamCall, refused
from liveact_services.gateway.session_meter import SessionMeter, measure_sessions
from liveact_services.observability.meter import METER, Meter
from liveact_services.observability.metrics import METRICS, RAY_LABELS, STAGE_SECONDS, Kind, table
from liveact_services.observability.tenant_names import TenantNames
from liveact_services.sessions import SessionState
from observability_fixtures import RULES, Collected, Query, dashboards, rule_queries, rules
from stage_fixtures import session_spec

DECLARED = {series: metric for metric in METRICS for series in metric.series}
QUERIES = [*dashboards(), *rule_queries()]
WITH_PROMTOOL = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: it comes with Debian's package prometheus"
)


@pytest.fixture
def collected() -> Iterator[Collected]:
    collected = Collected()
    METER.start(collected.make, max_tenants=2)
    yield collected
    METER.start(None)


# ---- declarations ------------------------------------------------------------------------------------------------------------


def test_every_metric_has_a_name_a_unit_and_labels_of_which_there_are_few() -> None:
    assert len({metric.exported for metric in METRICS}) == len(METRICS)
    bounded = {"pool", "outcome", "stage", "state", "call", "reason", "place", "cause", "tenant"}
    for metric in METRICS:
        assert re.fullmatch(r"liveact_[a-z_]+", metric.name)
        assert metric.unit
        assert metric.help.endswith(".")
        assert set(metric.labels) <= bounded, metric.name
        assert not set(metric.labels) & RAY_LABELS
        assert bool(metric.buckets) == (metric.kind is Kind.HISTOGRAM)
        assert list(metric.buckets) == sorted(set(metric.buckets))


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_every_name_and_label_of_a_query_is_declared(query: Query) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert query.names, query.expr
    assert query.names <= DECLARED.keys() | recorded
    metrics = [DECLARED[name] for name in query.names if name in DECLARED]
    for name, labels in query.labels.items():
        assert labels <= {*DECLARED[name].labels, *RAY_LABELS}, name
    if metrics:
        assert query.grouped <= {"le", *RAY_LABELS}.union(*(metric.labels for metric in metrics))
    assert set(re.findall(r'reason="(\w+)"', query.expr)) <= REASONS.keys()


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {DECLARED[name].name for query in dashboards() for name in query.names}
    assert {metric.name for metric in METRICS} - shown == set()


def test_a_query_for_what_is_not_there_would_be_found() -> None:
    query = Query("", 'sum by (flavour) (rate(ray_liveact_stage_seconds_bucket{stage="x",size="y"}[5m]))', "{{le}}")
    assert query.names == {"ray_liveact_stage_seconds_bucket"}
    assert query.labels == {"ray_liveact_stage_seconds_bucket": {"stage", "size"}}
    assert query.grouped == {"flavour", "le"}


def test_the_document_lists_the_metrics_as_they_are_declared() -> None:
    text = (ROOT / "docs" / "observability.md").read_text()
    listed = "\n".join(line for line in text.splitlines() if line.startswith(("| metric |", "| `ray_")))
    declared = [line for line in table().splitlines() if not line.startswith("| ---")]
    assert listed.splitlines() == declared, "make the table of docs/observability.md with metrics.table()"


# ---- alerts ------------------------------------------------------------------------------------------------------------------


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    alerts = [rule for rule in rules() if "alert" in rule]
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == [rule["alert"] for rule in alerts]
    for rule in alerts:
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


SCENES = {
    "a quiet day": ({"met": "0+1x500", "missed": "0x500"}, {"ready": "0+1x500", "failed": "0x500"}, set()),
    "one block in five is late": (
        {"met": "0+4x500", "missed": "0+1x500"}, {"ready": "0+1x500"}, {"LiveActBlocksLateFast", "LiveActBlocksLateSlow"},
    ),
    "one block in twelve is late": ({"met": "0+11x500", "missed": "0+1x500"}, {"ready": "0+1x500"}, {"LiveActBlocksLateSlow"}),
    "one session in fifty fails": (
        {"met": "0+1x500"}, {"ready": "0+49x500", "failed": "0+1x500"}, {"LiveActSessionsFailFast", "LiveActSessionsFailSlow"},
    ),
    "no session has room": ({"met": "0+1x500"}, {"ready": "0+1x500", "no_room": "0+1x500"}, {"LiveActNoRoom"}),
}  # fmt: skip


def promtool(*words: str) -> None:
    run = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=250, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@WITH_PROMTOOL
def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", str(RULES))


@WITH_PROMTOOL
@pytest.mark.slow
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    """Prometheus' own rule tester over series by script, one minute a sample, looked at after seven hours."""
    alerts = [rule["alert"] for rule in rules() if "alert" in rule]
    tests = []
    for name, (blocks, opens, firing) in SCENES.items():
        series = [
            *(
                {"series": f'ray_liveact_block_deadlines_total{{outcome="{o}"}}', "values": v}
                for o, v in blocks.items()
            ),
            *({"series": f'ray_liveact_session_opens_total{{outcome="{o}"}}', "values": v} for o, v in opens.items()),
            {"series": "ray_liveact_sessions", "values": "1x500"},
            {"series": "ray_liveact_store_away", "values": "0x500"},
        ]
        expected = [
            {"eval_time": "7h", "expr": f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)',
             "exp_samples": [{"labels": "{}", "value": int(alert in firing)}]}
            for alert in alerts
        ]  # fmt: skip
        tests.append({"name": name, "interval": "1m", "input_series": series, "promql_expr_test": expected})
    silent = {"eval_time": "7h", "expr": 'count(ALERTS{alertname="LiveActSilent",alertstate="firing"})',
              "exp_samples": [{"labels": "{}", "value": 1}]}  # fmt: skip
    tests.append({"name": "nothing is heard", "interval": "1m", "input_series": [], "promql_expr_test": [silent]})
    script = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(script))
    promtool("test", "rules", str(tmp_path / "test.yaml"))


# ---- recording ---------------------------------------------------------------------------------------------------------------


def test_a_measurement_that_fails_is_told_once_and_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    meter = Meter()
    meter.record(STAGE_SECONDS, 1.0, stage="audio")

    def broken(metric: object) -> None:
        raise RuntimeError("Ray has gone")

    meter.start(broken)  # type: ignore[arg-type]
    for _ in range(3):
        meter.record(STAGE_SECONDS, 1.0, stage="audio")
    assert [record.message for record in caplog.records] == ["liveact_stage_seconds cannot be recorded"]


def test_tenants_beyond_the_cap_are_one() -> None:
    names = TenantNames(2)
    assert [names.label(tenant) for tenant in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]
    assert TenantNames(0).label("a") == "other"


def shown(block: int, utterance: str = "") -> Video:
    frames = tuple(EncodedFrame(index, False, b"") for index in block_frames(block))
    return Video(VideoPart(block, frames, StageTimes()), (utterance,) * len(frames))


def test_a_session_counts_its_blocks_stalls_and_seconds(collected: Collected) -> None:
    now = 100.0
    clock = PlayClock(20, lambda: now)
    meter = SessionMeter(session_spec(pacing=Pacing.REALTIME, tenant="acme", pool="gold"), clock)
    meter.ready()
    meter.heard()
    for block, wait_s in ((0, 0.0), (1, 1.0), (2, 1.0), (3, 10.0)):
        now += wait_s
        meter.emitted(Sound(block, 0.0, np.zeros(1, np.float32)))
        clock.delivered(block, now - 0.25)
        meter.emitted(shown(block, "a" if block > 1 else ""))
    meter.emitted(Event(Happening.UNDERRUN))
    meter.migrated("lost", 2.5)
    meter.ended(SessionState.FAILED, fail("SESSION_LOST", "gone"))
    assert collected.total("block_deadlines", outcome="met", pool="gold") == 2
    assert collected.total("block_deadlines", outcome="missed", pool="gold") == 1
    assert collected.total("viewer_stalls") == 1
    assert collected.total("viewer_stall_seconds") == pytest.approx(clock.stalled_s)
    assert collected.count("block_seconds") == 4
    assert collected.total("block_seconds") == pytest.approx(1.0)
    assert collected.count("first_frame_seconds") == 1
    assert collected.total("tenant_stream_seconds", tenant="acme") == pytest.approx((21 + 3 * 32) / 20)
    assert collected.total("voice_underruns") == 1
    assert collected.total("session_ends", state="failed", reason="SESSION_LOST") == 1
    assert collected.total("session_opens", outcome="ready") == 1
    assert collected.total("migration_seconds", cause="lost") == 2.5


def test_a_session_that_another_server_has_has_not_ended(collected: Collected) -> None:
    meter = SessionMeter(session_spec(), PlayClock(20, lambda: 0.0))
    meter.ended(SessionState.FAILED, fail("SESSION_TAKEN_OVER", "elsewhere"))
    assert collected.values == []


def test_a_block_that_is_only_shown_again_has_no_making(collected: Collected) -> None:
    clock = PlayClock(20, lambda: 0.0)
    meter = SessionMeter(session_spec(), clock)
    clock.delivered(0, -0.5)
    meter.emitted(shown(0))
    clock.sent(1)
    meter.emitted(shown(1))
    assert collected.count("block_seconds") == 1
    assert collected.count("block_deadlines") == 0, "nobody waits for a moment"


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("CAPACITY", "no_room"), ("IMAGE_EMPTY", "refused"), ("QUOTA_SESSIONS", "refused"), ("STORE_UNAVAILABLE", "failed"),
     ("INTERNAL", "failed"), ("CREDENTIALS_INVALID", "refused"), ("AUTHENTICATION_UNAVAILABLE", "failed")],
)  # fmt: skip
def test_a_new_session_that_fails_is_its_clients_doing_or_ours(collected: Collected, reason: str, outcome: str) -> None:
    call = StreamCall(())
    call.failed(fail(reason, "no"))
    call.end()
    assert collected.total("session_opens", outcome=outcome) == collected.total("session_opens") == 1
    assert collected.total("refusals", call="stream", reason=reason) == 1


def test_a_resume_that_fails_is_no_new_session(collected: Collected) -> None:
    call = StreamCall(())
    call.resumes()
    call.failed(fail("SESSION_LOST", "gone"))
    refused(fail("SESSION_NOT_FOUND", "none"))
    assert collected.count("session_opens") == 0
    assert collected.total("refusals", call="resume") == collected.total("refusals", call="unary") == 1


def test_states_without_a_session_are_told_as_zero(collected: Collected) -> None:
    held = [(SessionState.STREAMING, "default"), (SessionState.STREAMING, "default"), (SessionState.READY, "gold")]
    measure_sessions(held, ["default", "gold"], store_away=True)
    told = {(labels["state"], labels["pool"]): value for name, value, labels in collected.values if name == "sessions"}
    assert told[("streaming", "default")] == 2
    assert told[("ready", "gold")] == 1
    assert told[("detached", "gold")] == 0
    assert len(told) == 8
    assert collected.total("store_away") == 1
