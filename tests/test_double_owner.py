"""No order of events puts a session in two places: leases and places in a real Valkey, and the replicas' own word."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from liveact_services.errors import ServiceError
from liveact_services.placement.choose import ReplicaView, choose
from liveact_services.placement.holding import Holding, StaleHolder
from liveact_services.placement.pins import Pin, ReplicaFull, ReplicaGone
from liveact_services.sessions import Database, EmbeddedValkey, LeaseLost, Leases, SessionStore
from session_fixtures import Clock, admitted, fails, make_record

pytest_plugins = ["session_fixtures"]

GATEWAYS = ("g1", "g2")
REPLICAS = ("r1", "r2", "r3")
SESSIONS = ("s1", "s2")
CAPACITY = 1


async def test_of_two_who_place_a_session_one_succeeds(store: SessionStore, leases: Leases) -> None:
    record = await admitted(store)
    token = await leases.acquire(record.id, "g1", 60_000)
    await store.place(record.id, token, "r1")
    await store.place(record.id, token, "r1")
    error = await fails(store.place(record.id, token, "r2"), "SESSION_PLACED")
    assert error.message == f"session {record.id} is on r1, not on none"
    await store.place(record.id, token, "r2", was="r1")
    await store.place(record.id, token, "d1", stage="decoder")
    placed = await store.get(record.id, "acme")
    assert (placed.denoiser, placed.decoder) == ("r2", "d1")


async def test_who_lost_the_lease_places_nothing(store: SessionStore, leases: Leases) -> None:
    record = await admitted(store)
    old = await leases.acquire(record.id, "g1", 60_000)
    new = await leases.acquire(record.id, "g2", 60_000, take_over=True)
    with pytest.raises(LeaseLost):
        await store.place(record.id, old, "r1")
    await store.place(record.id, new, "r2")
    await fails(store.place("nobody", new, "r2"), "SESSION_NOT_FOUND")


def test_a_replica_admits_by_count_by_utilisation_and_not_while_it_is_drained() -> None:
    holding = Holding("r", max_sessions=3, bound=0.9)
    for session in ("a", "b"):
        holding.admit(session, 1, 0.45)
    with pytest.raises(ReplicaFull, match="r"):
        holding.admit("c", 1, 0.1)
    holding.release("a")
    holding.admit("c", 1, 0.1)
    holding.admit("d", 1, 0.1)
    with pytest.raises(ReplicaFull):
        holding.admit("e", 1, 0.1)
    holding.release("d")
    holding.draining = True
    with pytest.raises(ReplicaFull):
        holding.admit("e", 1, 0.1)
    holding.check("b", 1)
    for session in ("b", "c"):
        holding.release(session)
    assert holding.used == 0.0


def test_a_replica_lets_nobody_work_under_an_older_token_than_it_knows() -> None:
    holding = Holding("r", max_sessions=1)
    holding.admit("a", 5)
    holding.admit("a", 6)
    for stale in (lambda: holding.admit("a", 5), lambda: holding.check("a", 5), lambda: holding.release("a", 5)):
        with pytest.raises(StaleHolder):
            stale()
    holding.check("a", 7)
    holding.release("a", 6)
    with pytest.raises(ReplicaGone):
        holding.check("a", 6)


@dataclass
class Believed:
    """What one Gateway believes of one session."""

    token: int
    replica: str = ""


@dataclass
class World:
    """Every process of the story."""

    gateways: dict[str, dict[str, Believed]] = field(default_factory=lambda: {name: {} for name in GATEWAYS})
    replicas: dict[str, Holding] = field(default_factory=dict)
    exports: dict[str, int] = field(default_factory=dict)
    """By session: blocks of the newest export."""


class Ownership(RuleBasedStateMachine):
    """Gateways that disagree, replicas that die, leases that lapse half-way through a move.

    What owns a session is a replica that would work for a Gateway whose word Redis accepts. Each rule is one step of the way
    to that, so that any other process may come in between.
    """

    url = ""
    gateways, sessions, replicas = st.sampled_from(GATEWAYS), st.sampled_from(SESSIONS), st.sampled_from(REPLICAS)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database = Database.connect(self.url, prefix=f"owners-{uuid.uuid4()}:")
        self.store = SessionStore(self.database, clock=Clock())
        self.leases = Leases(self.database)
        self.world = World()
        self.tokens: dict[str, set[int]] = {session: set() for session in SESSIONS}
        self.blocks = dict.fromkeys(SESSIONS, 0)
        self.pending: list[tuple[str, str, str, str]] = []
        """Opened at a replica and not yet written: gateway, session, replica, replica before."""
        for replica in REPLICAS:
            self.birth(replica)
        for session in SESSIONS:
            self.runner.run(self.store.admit(make_record(id=session)))

    def teardown(self) -> None:
        self.runner.run(self.database.aclose())
        self.runner.close()

    def birth(self, replica: str) -> None:
        self.world.replicas[replica] = Holding(replica, max_sessions=CAPACITY)

    def somebody(self, data: st.DataObject) -> tuple[str, str, Believed]:
        """A Gateway, a session it believes to have, and what it believes."""
        pairs = [(gateway, session) for gateway, held in self.world.gateways.items() for session in held]
        gateway, session = data.draw(st.sampled_from(pairs))
        return gateway, session, self.world.gateways[gateway][session]

    def anybody(self) -> bool:
        return any(self.world.gateways.values())

    def attempt(self, coroutine: object) -> object:
        try:
            return self.runner.run(coroutine)  # type: ignore[arg-type]
        except ServiceError as error:
            return error

    # ---- leases ------------------------------------------------------------------------------------------------------------

    @rule(gateway=gateways, session=sessions, resumes=st.booleans())
    def claim(self, gateway: str, session: str, resumes: bool) -> None:
        """A client comes to this Gateway, or comes back to another with its token."""
        result = self.attempt(self.leases.acquire(session, gateway, 60_000, take_over=resumes))
        if isinstance(result, int):
            self.tokens[session].add(result)
            placed = self.runner.run(self.store.get(session, "acme")).denoiser
            self.world.gateways[gateway][session] = Believed(result, placed)

    @precondition(anybody)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        _, session, known = self.somebody(data)
        result = self.attempt(self.leases.renew(session, known.token, 60_000))
        assert result is None or isinstance(result, LeaseLost)

    @rule(session=sessions)
    def expire(self, session: str) -> None:
        """The lease lapses; its holder has not heard of it."""
        lease = self.database.key("session", session, "lease")
        self.runner.run(self.database.call(self.database.client.delete(lease)))

    # ---- placement ---------------------------------------------------------------------------------------------------------

    @precondition(anybody)
    @rule(data=st.data(), seen=st.lists(replicas, unique=True, min_size=1))
    def open(self, data: st.DataObject, seen: list[str]) -> None:
        """Open, or adopt what was exported, where this Gateway's router says, which has seen only some of the replicas."""
        gateway, session, known = self.somebody(data)
        if known.replica and session not in self.world.exports:
            return
        for replica in choose(Pin(session), [ReplicaView(r, i) for i, r in enumerate(seen)]):
            try:
                self.world.replicas[replica].admit(session, known.token)
            except (ReplicaFull, StaleHolder):
                continue
            self.pending.append((gateway, session, replica, known.replica))
            return

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        """What was opened is written to Redis, or given up."""
        gateway, session, replica, was = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        known = self.world.gateways[gateway][session]
        result = self.attempt(self.store.place(session, known.token, replica, was=was))
        if result is None:
            if was and was != replica:
                self.close_at(was, session, known.token)
            known.replica = replica
        elif replica != known.replica:
            self.close_at(replica, session, known.token)

    def close_at(self, replica: str, session: str, token: int) -> None:
        with contextlib.suppress(StaleHolder):
            self.world.replicas[replica].release(session, token)

    @precondition(anybody)
    @rule(data=st.data())
    def export(self, data: st.DataObject) -> None:
        """The session's value goes to the vault, at the block boundary where it is."""
        _, session, known = self.somebody(data)
        if known.replica and self.works(known.replica, session, known.token):
            self.world.exports[session] = self.blocks[session]

    @precondition(anybody)
    @rule(data=st.data())
    def make_block(self, data: st.DataObject) -> None:
        _, session, known = self.somebody(data)
        if not known.replica or not self.works(known.replica, session, known.token):
            return
        if self.attempt(self.store.touch(session, known.token, block=self.blocks[session] + 1)) is None:
            self.blocks[session] += 1

    @rule(replica=replicas)
    def drain(self, replica: str) -> None:
        self.world.replicas[replica].draining ^= True

    @rule(replica=replicas)
    def replica_dies(self, replica: str) -> None:
        """And another takes its place, with the same short name and nothing in it."""
        self.birth(replica)

    @rule(gateway=gateways)
    def gateway_dies(self, gateway: str) -> None:
        """What it knew is lost; what it opened at replicas stays there."""
        self.world.gateways[gateway] = {}
        self.pending = [step for step in self.pending if step[0] != gateway]

    # ---- what must hold ----------------------------------------------------------------------------------------------------

    def works(self, replica: str, session: str, token: int) -> bool:
        try:
            self.world.replicas[replica].check(session, token)
        except (ReplicaGone, StaleHolder):
            return False
        return True

    @invariant()
    def no_session_has_two_owners(self) -> None:
        for session in SESSIONS:
            owners = [
                (replica, token)
                for replica in REPLICAS
                for token in self.tokens[session]
                if self.works(replica, session, token)
                # Saying again where it is changes nothing, and Redis accepts it from its owner only.
                and self.attempt(self.store.place(session, token, replica, was=replica)) is None
            ]
            assert len(owners) <= 1, f"{session} is owned by {owners}"

    @invariant()
    def no_replica_holds_more_than_it_takes(self) -> None:
        assert all(len(holding.sessions) <= CAPACITY for holding in self.world.replicas.values())

    @invariant()
    def what_was_written_counts_once(self) -> None:
        for session, made in self.blocks.items():
            assert self.runner.run(self.store.get(session, "acme")).block == made


def test_no_interleaving_gives_a_session_two_owners(valkey: EmbeddedValkey) -> None:
    Ownership.url = valkey.url
    run_state_machine_as_test(
        Ownership,
        settings=settings(
            max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


class Unfenced(Ownership):
    """The same world where a place is written without looking at what stands there or at the lease."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, set[str]] = {session: set() for session in SESSIONS}

    def attempt(self, coroutine: object) -> object:
        if getattr(coroutine, "__name__", "") == "place":
            coroutine.close()  # type: ignore[attr-defined]
            return None
        return super().attempt(coroutine)


def test_the_property_would_find_two_owners_without_the_fence(valkey: EmbeddedValkey) -> None:
    Unfenced.url = valkey.url
    with pytest.raises(BaseException, match="is owned by"):
        run_state_machine_as_test(
            Unfenced,
            settings=settings(
                max_examples=200, stateful_step_count=40, deadline=None, database=None, derandomize=True,
                suppress_health_check=list(HealthCheck), phases=[Phase.generate],
            ),
        )  # fmt: skip
