"""What a simulated day comes to."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from liveact_services.simulate.oracle import fewest_replica_seconds

if TYPE_CHECKING:
    from liveact_services.simulate.service import Session

HOUR_S = 3600.0


class Tally:
    """Counts what happens from 0 to `until_s`; what came before is the warm-up."""

    def __init__(self, until_s: float) -> None:
        self.until_s = until_s
        self.sessions = self.refusals = self.quota_refusals = self.losses = self.migrations = self.nodes_lost = 0
        self.most_replicas = 0
        self.told = self.told_right = 0
        """Clients that came back when they were told, and those of them for whom the time was right."""
        self._asked_replicas = array("H")
        """Of each session that was placed: how many replicas refused it before."""
        self._waits = array("d")
        self._begins, self._ends, self._needs = array("d"), array("d"), array("d")
        self._since = 0.0
        self._asked_s = self._ready_s = self._node_s = 0.0

    # ---- sessions ----------------------------------------------------------------------------------------------------------

    def asked(self, session: Session) -> None:
        """It wants to begin."""
        self.sessions += session.asked_s >= 0

    def placed(self, session: Session) -> None:
        """It begins."""
        if session.asked_s >= 0:
            self._waits.append(session.began_s - session.asked_s)

    def placed_after(self, now: float, refusals: int) -> None:
        """A replica took a session, after so many had refused it."""
        if now >= 0:
            self._asked_replicas.append(refusals)

    def came_back(self, session: Session, right: bool) -> None:
        """It waited as long as it was told, and that was right or not."""
        if session.asked_s >= 0:
            self.told += 1
            self.told_right += right

    def over_quota(self, session: Session) -> None:
        """Its tenant has as many as it may."""
        self.quota_refusals += session.asked_s >= 0

    def refused(self, session: Session) -> None:
        """It gave up waiting for room."""
        self.refusals += session.asked_s >= 0

    def lost(self, session: Session, now: float) -> None:
        """It gave up after its replica had gone."""
        self.losses += now >= 0
        self.served(session, now)

    def served(self, session: Session, now: float) -> None:
        """It was here until now."""
        self._begins.append(session.began_s)
        self._ends.append(now)
        self._needs.append(session.need)

    def moved(self, now: float) -> None:
        """A session is on another replica."""
        self.migrations += now >= 0

    # ---- replicas ----------------------------------------------------------------------------------------------------------

    def node_lost(self, now: float) -> None:
        """A node broke or was reclaimed."""
        self.nodes_lost += now >= 0

    def stood(self, now: float, asked: int, ready: int, nodes: int) -> None:
        """Up to now there were so many replicas, with and without those that start, on so many nodes."""
        lasted = max(0.0, min(now, self.until_s) - max(self._since, 0.0))
        self._asked_s += lasted * asked
        self._ready_s += lasted * ready
        self._node_s += lasted * nodes
        self._since = now
        if lasted:
            self.most_replicas = max(self.most_replicas, asked)

    # ---- the sum -----------------------------------------------------------------------------------------------------------

    def figures(self, bound: float, gpus_per_replica: int, replicas_per_node: int) -> dict[str, Any]:
        """The day in numbers. GPU-hours count from the moment a replica is asked for."""
        begins, ends, needs = (np.frombuffer(a) if len(a) else np.zeros(0) for a in self._parts())
        present_s = np.clip(ends, 0, self.until_s) - np.clip(begins, 0, self.until_s)
        session_hours = float(present_s.sum()) / HOUR_S
        fewest = fewest_replica_seconds(begins, ends, needs, bound, self.until_s)
        waits = np.frombuffer(self._waits) if len(self._waits) else np.zeros(1)
        asked = np.frombuffer(self._asked_replicas, np.uint16) if len(self._asked_replicas) else np.zeros(1)
        hours = gpus_per_replica / HOUR_S
        return {
            "sessions": self.sessions,
            "session_hours": round(session_hours, 1),
            "most_replicas": self.most_replicas,
            "utilisation": _ratio(float((present_s * needs).sum()), bound * self._ready_s),
            "wait_p95_s": round(float(np.quantile(waits, 0.95)), 3),
            "wait_p999_s": round(float(np.quantile(waits, 0.999)), 3),
            "waited_share": round(float(np.mean(waits > 0)), 6),
            "asked_mean": round(1 + float(np.mean(asked)), 3),
            "asked_p999": 1 + int(np.quantile(asked, 0.999, method="higher")),
            "told": self.told,
            "told_right": _ratio(self.told_right, self.told),
            "refused": self.refusals,
            "refused_share": _ratio(self.refusals, self.sessions),
            "refused_by_quota": self.quota_refusals,
            "lost": self.losses,
            "nodes_lost": self.nodes_lost,
            "migrations": self.migrations,
            "migrations_per_session_hour": _ratio(self.migrations, session_hours),
            "gpu_hours": round(self._asked_s * hours, 1),
            "oracle_gpu_hours": round(fewest * hours, 1),
            "gpu_hours_ratio": _ratio(self._asked_s, fewest),
            "node_gpu_hours": round(self._node_s * replicas_per_node * hours, 1),
            "node_gpu_hours_ratio": _ratio(self._node_s * replicas_per_node, fewest),
        }

    def _parts(self) -> tuple[array[float], array[float], array[float]]:
        return self._begins, self._ends, self._needs


def _ratio(part: float, whole: float) -> float:
    """Rounded; 0 of nothing is 0."""
    return round(part / whole, 4) if whole else 0.0
