"""A whole fleet of one pool, indexed: the same choice as `choose.choose`, in about the logarithm of the fleet's size."""

from __future__ import annotations

import heapq
import math
import zlib
from collections.abc import Iterator
from itertools import takewhile

from liveact_services.placement.choose import MOST_ASKED, ROUNDING, ReplicaView, passed_over, require_patience, wanted
from liveact_services.placement.pins import NoReplica, Pin, ReplicaGone

_CLOSED = -math.inf
_SMALLEST = 16


class Fleet:
    """Replicas by age, with a tournament tree over what each has free.

    The leaves are the replicas, oldest first; an inner node holds the most that any leaf below it has free. The oldest with
    room for a session is found by walking down from the root. Replicas are added in the order of their age.
    """

    def __init__(self) -> None:
        self._views: dict[str, ReplicaView] = {}
        self._slots: dict[str, int] = {}
        self._ids: list[str | None] = []
        """By slot; None where one has gone."""
        self._size = _SMALLEST
        self._free = [_CLOSED] * (2 * self._size)
        self.used = 0.0
        """How many full replicas all that they hold would make."""
        self.draining = 0
        """How many are drained."""

    def __len__(self) -> int:
        return len(self._views)

    def __contains__(self, replica: str) -> bool:
        return replica in self._views

    def view(self, replica: str) -> ReplicaView:
        """Raises `ReplicaGone`."""
        try:
            return self._views[replica]
        except KeyError:
            raise ReplicaGone(f"replica {replica} no longer serves") from None

    def add(self, view: ReplicaView) -> None:
        """A replica that is younger than every other. Raises ValueError for one that is not, or that is here."""
        if view.id in self._views:
            raise ValueError(f"replica {view.id} is in the fleet already")
        newest = self._newest()
        if newest is not None and view.age_order < newest.age_order:
            raise ValueError(
                f"replica {view.id} is older than {newest.id}: replicas are added in the order of their age"
            )
        if len(self._ids) == self._size:
            self._rebuild()
        self._slots[view.id] = len(self._ids)
        self._ids.append(view.id)
        self._views[view.id] = view
        self._count(view, 1)
        self._write(view)

    def remove(self, replica: str) -> None:
        """The replica has gone, with what it held. Raises `ReplicaGone`."""
        view = self.view(replica)
        slot = self._slots.pop(replica)
        self._count(view, -1)
        self._set(slot, _CLOSED)
        self._ids[slot] = None
        del self._views[replica]
        while self._ids and self._ids[-1] is None:
            self._ids.pop()

    def update(
        self,
        replica: str,
        *,
        held: float | None = None,
        capacity: float | None = None,
        unit: float | None = None,
        draining: bool | None = None,
    ) -> None:
        """What is known of it now. Raises `ReplicaGone`."""
        before = self.view(replica)
        after = ReplicaView(
            before.id, before.started_at, before.held if held is None else held,
            before.capacity if capacity is None else capacity, before.draining if draining is None else draining, before.pool,
            before.unit if unit is None else unit,
        )  # fmt: skip
        self._count(before, -1)
        self._count(after, 1)
        self._views[replica] = after
        self._write(after)

    def choose(self, pin: Pin) -> str:
        """The first of `choose.choose`; of replicas that look full any. Raises `ReplicaGone` and `NoReplica`."""
        if pin.replica is not None:
            return self.view(pin.replica).id
        require_patience(pin)
        for need, skip in ((wanted(pin), passed_over(pin, len(self))), (pin.size, 0)):
            if (replica := self._with_room(pin, need, skip)) is not None:
                return replica
        if len(pin.refused) < MOST_ASKED and (replica := self._full(pin)) is not None:
            return replica
        raise NoReplica(f"{len(pin.refused)} replicas have refused the session and the others look full")

    def _with_room(self, pin: Pin, need: float, skip: int) -> str | None:
        """One with room for that size that has not refused: the oldest but so many, counted in a circle."""
        fitting: list[str] = []
        slot = self._first(0, need - ROUNDING)
        while slot >= 0 and len(fitting) <= skip:
            replica = self._ids[slot]
            if replica is not None and replica not in pin.refused:
                fitting.append(replica)
            slot = self._first(slot + 1, need - ROUNDING)
        return fitting[skip % len(fitting)] if fitting else None

    def _full(self, pin: Pin) -> str | None:
        """A willing one that has not refused: the first from a place in the list that is another for each session."""
        count = len(self._ids)
        start = zlib.crc32(pin.session.encode()) % max(1, count)
        for step in range(count):
            replica = self._ids[(start + step) % count]
            if replica is not None and replica not in pin.refused and not self._views[replica].draining:
                return replica
        return None

    def roomiest(self, count: int) -> list[tuple[str, float]]:
        """Of the replicas that hold something and are not drained, so many with most room, and how much, most first."""
        found: list[tuple[str, float]] = []
        # The best below a node are no better than it: nodes are opened in the order of what they promise.
        nodes = [(-self._free[1], 1)]
        while nodes and len(found) < count:
            free, node = heapq.heappop(nodes)
            if free == -_CLOSED:
                break
            if node < self._size:
                for child in (2 * node, 2 * node + 1):
                    heapq.heappush(nodes, (-self._free[child], child))
            elif free != -math.inf and (replica := self._ids[node - self._size]) is not None:
                found.append((replica, -free))
        return found

    def newest_first(self) -> Iterator[ReplicaView]:
        """Every replica, the newest in front; the fleet may be updated meanwhile, and nothing added or removed."""
        for replica in reversed(self._ids):
            if replica is not None:
                yield self._views[replica]

    def idle_newest(self) -> int:
        """How many of the newest hold nothing, up to the first that does."""
        return sum(1 for _ in takewhile(lambda view: not view.held, self.newest_first()))

    # ---- the tree ----------------------------------------------------------------------------------------------------------

    def _first(self, start: int, need: float) -> int:
        """The first slot from `start` on with `need` free, or all it could have; -1 where there is none."""
        if start >= self._size:
            return -1
        tree, node = self._free, start + self._size if start else 1
        while tree[node] < need:
            # Up to the first ancestor with a sibling on its right; above the root there is nothing.
            while node & 1:
                node >>= 1
            if node == 0:
                return -1
            node += 1
        while node < self._size:
            node *= 2
            if tree[node] < need:
                node += 1
        return node - self._size

    def _set(self, slot: int, free: float) -> None:
        tree, node = self._free, slot + self._size
        tree[node] = free
        while node > 1:
            node >>= 1
            best = max(tree[2 * node], tree[2 * node + 1])
            if tree[node] == best:
                return
            tree[node] = best

    def _write(self, view: ReplicaView) -> None:
        self._set(self._slots[view.id], _CLOSED if view.draining else view.free)

    def _count(self, view: ReplicaView, sign: int) -> None:
        self.used += sign * view.held / view.capacity
        self.draining += sign * view.draining

    def _newest(self) -> ReplicaView | None:
        return self._views[self._ids[-1]] if self._ids and self._ids[-1] is not None else None

    def _rebuild(self) -> None:
        """Close the gaps, and make room for as many again."""
        self._ids = [replica for replica in self._ids if replica is not None]
        self._slots = {replica: slot for slot, replica in enumerate(self._ids) if replica is not None}
        self._size = max(_SMALLEST, 1 << (2 * len(self._ids)).bit_length())
        self._free = [_CLOSED] * (2 * self._size)
        for view in self._views.values():
            self._write(view)
