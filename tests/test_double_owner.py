"""No order of events gives a session two owners: leases in a real Valkey, attempts at replicas, and the Vault's own word."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from liveact_services.block_order import BlockOrder
from liveact_services.conductor.archive import Writing, first_attempt, owner
from liveact_services.conductor.parts import Part
from liveact_services.errors import ServiceError
from liveact_services.fencing import REMEMBERED, Fence
from liveact_services.placement.pins import ReplicaGone, Superseded
from liveact_services.sessions import Database, EmbeddedValkey, LeaseLost, Leases, SessionStore
from liveact_services.vault.shelf import Shelf
from session_fixtures import Clock, admitted, fails, make_record

pytest_plugins = ["session_fixtures"]

GATEWAYS = ("g1", "g2")
REPLICAS = ("r1", "r2")
SESSIONS = ("s1", "s2")


# ---- the pieces


async def test_a_lease_is_taken_back_only_where_nobody_was_given_it_since(store: SessionStore, leases: Leases) -> None:
    record = await admitted(store)
    old = await leases.acquire(record.id, "g1", 60_000)
    await leases.release(record.id, old)
    back = await leases.take_back(record.id, "g1", old, 60_000)
    assert back > old
    new = await leases.acquire(record.id, "g2", 60_000, take_over=True)
    await leases.release(record.id, new)
    for token in (old, back):
        with pytest.raises(LeaseLost):
            await leases.take_back(record.id, "g1", token, 60_000)
    await fails(leases.take_back("nobody", "g1", old, 60_000), "SESSION_NOT_FOUND")


def test_attempts_of_a_later_owner_are_beyond_all_of_an_earlier_one() -> None:
    assert first_attempt(5) + 60_000 < first_attempt(6)
    assert owner(first_attempt(5) + 60_000) == 5


def test_a_replica_lets_nobody_act_at_an_older_attempt_than_it_has_seen() -> None:
    fence = Fence()
    fence.enter("a", 5)
    fence.enter("a", 5)
    fence.enter("a", 6)
    with pytest.raises(Superseded, match="attempt 5 came after attempt 6"):
        fence.enter("a", 5)
    fence.enter("b", 1)
    for number in range(REMEMBERED - 1):
        fence.enter(f"other {number}", 1)
    assert len(fence._seen) == REMEMBERED


def test_an_earlier_owners_words_change_nothing_in_the_vault() -> None:
    shelf, early, late = Shelf(10_000, 100.0), first_attempt(1), first_attempt(2)
    shelf.put("s", Part.DENOISER, 4, b"four", early)
    shelf.write("s", early, Writing({"3": b"page"}, ("3",)))
    assert shelf.read("s", late) == {"3": b"page"}, "what is there is what a later owner goes on from"
    for stale in (
        lambda: shelf.put("s", Part.DENOISER, 8, b"eight", early + 7),
        lambda: shelf.write("s", early + 7, Writing({}, ())),
        lambda: shelf.read("s", early),
        lambda: shelf.forget("s", early),
    ):
        with pytest.raises(Superseded):
            stale()
    assert (shelf.read("s", None), shelf.blocks("s", Part.DENOISER)) == ({"3": b"page"}, [4])
    # An earlier attempt of the same owner has made what a later one would have.
    shelf.write("s", late, Writing({}, ("3",), floor=5))
    shelf.put("s", Part.DENOISER, 12, b"twelve", late + 3)
    shelf.put("s", Part.DENOISER, 8, b"eight", late + 1)
    assert shelf.blocks("s", Part.DENOISER) == [12, 8, 4], "and one that is not ahead of the client"
    shelf.write("s", late, Writing({}, ("3",), floor=9, cut=11))
    assert shelf.blocks("s", Part.DENOISER) == [8, 4], "what an earlier owner was ahead is of other plans"
    shelf.forget("s", late)
    assert (shelf.nbytes, shelf.sessions) == (0, [])
    shelf.put("s", Part.DENOISER, 16, b"late", late)
    assert shelf.nbytes == 0


def test_a_vault_that_lost_everything_keeps_nothing_that_an_earlier_owner_put_there_meanwhile() -> None:
    shelf = Shelf(10_000, 100.0)
    shelf.write("s", first_attempt(1), Writing({"9": b"other plans"}, ("9",)))
    shelf.put("s", Part.DECODER, 12, b"other plans", first_attempt(1))
    kept = shelf.write("s", first_attempt(2) + 5, Writing({"8": b"page"}, ("8", "9")))
    assert kept.pages == {"8"}
    assert kept.exports == {Part.DENOISER: [], Part.DECODER: []}
    assert shelf.nbytes == 4


# ---- all of them together


@dataclass
class Believed:
    """What one Gateway believes of one session."""

    token: int
    attempt: int
    replica: str = ""
    sure: bool = False
    """Whether it has looked at its lease since it last placed the session."""


@dataclass
class Replica:
    """What one replica has of sessions."""

    fence: Fence = field(default_factory=Fence)
    sessions: dict[str, BlockOrder] = field(default_factory=dict)


@dataclass
class World:
    """Every process of the story."""

    gateways: dict[str, dict[str, Believed]] = field(default_factory=lambda: {name: {} for name in GATEWAYS})
    replicas: dict[str, Replica] = field(default_factory=lambda: {name: Replica() for name in REPLICAS})
    shelf: Shelf = field(default_factory=lambda: Shelf(1 << 20, 1e9))


class Ownership(RuleBasedStateMachine):
    """Gateways that take sessions from each other, replicas that die, leases that lapse half-way through a move.

    What counts is what a client can come to see: a block that a replica made for a Gateway and that the Vault has a page of.
    Each rule is one step of the way to that, so that any other process may come in between.
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
        self.shown: dict[str, list[int]] = {session: [] for session in SESSIONS}
        """Of each session's blocks, the attempt for which it was shown."""
        for session in SESSIONS:
            self.runner.run(self.store.admit(make_record(id=session)))

    def teardown(self) -> None:
        self.runner.run(self.database.aclose())
        self.runner.close()

    def somebody(self, data: st.DataObject) -> tuple[str, str, Believed]:
        """A Gateway, a session it believes to have, and what it believes."""
        pairs = [(gateway, session) for gateway, held in self.world.gateways.items() for session in held]
        gateway, session = data.draw(st.sampled_from(sorted(pairs)))
        return gateway, session, self.world.gateways[gateway][session]

    def anybody(self) -> bool:
        return any(self.world.gateways.values())

    def ask(self, coroutine: object) -> object:
        try:
            return self.runner.run(coroutine)  # type: ignore[arg-type]
        except ServiceError as error:
            return error

    def superseded(self, gateway: str, session: str) -> None:
        """A replica or the Vault has said so: the Gateway drops the session, and closes nothing."""
        self.world.gateways[gateway].pop(session, None)

    # ---- leases ------------------------------------------------------------------------------------------------------------

    @rule(gateway=gateways, session=sessions, resumes=st.booleans())
    def claim(self, gateway: str, session: str, resumes: bool) -> None:
        """A client comes to this Gateway, or comes back to another with its token."""
        token = self.ask(self.leases.acquire(session, gateway, 60_000, take_over=resumes))
        if isinstance(token, int):
            self.world.gateways[gateway][session] = Believed(token, first_attempt(token))
            self.read(session, first_attempt(token))

    def read(self, session: str, attempt: int) -> None:
        self.world.shelf.read(session, attempt)

    @precondition(anybody)
    @rule(data=st.data())
    def make_sure(self, data: st.DataObject) -> None:
        """Renew the lease, or take it back where it lapsed; who cannot drops the session."""
        self.look(*self.somebody(data))

    def look(self, gateway: str, session: str, known: Believed) -> None:
        answer = self.ask(self.leases.renew(session, known.token, 60_000))
        if isinstance(answer, LeaseLost):
            answer = self.ask(self.leases.take_back(session, gateway, known.token, 60_000))
            known.token = answer if isinstance(answer, int) else known.token
        if isinstance(answer, ServiceError):
            self.superseded(gateway, session)
        else:
            known.sure = True

    @rule(session=sessions)
    def expire(self, session: str) -> None:
        """The lease lapses; its holder has not heard of it."""
        lease = self.database.key("session", session, "lease")
        self.runner.run(self.database.call(self.database.client.delete(lease)))

    # ---- replicas ----------------------------------------------------------------------------------------------------------

    def enter(self, replica: Replica, session: str, attempt: int) -> None:
        replica.fence.enter(session, attempt)

    @precondition(anybody)
    @rule(data=st.data(), replica=replicas)
    def place(self, data: st.DataObject, replica: str) -> None:
        """Open or adopt there; the lease was looked at before, which may be long ago."""
        gateway, session, known = self.somebody(data)
        if not known.sure:
            self.look(gateway, session, known)
        if not known.sure:
            return
        at = self.world.replicas[replica]
        known.attempt, known.sure = known.attempt + 1, False
        try:
            self.enter(at, session, known.attempt)
        except Superseded:
            return self.superseded(gateway, session)
        at.sessions[session] = BlockOrder(len(self.shown[session]), known.attempt)
        known.replica = replica

    @precondition(anybody)
    @rule(data=st.data(), replica=replicas)
    def settle(self, data: st.DataObject, replica: str) -> None:
        """Begin an attempt where the record says that the session is, right or wrong."""
        gateway, session, known = self.somebody(data)
        at = self.world.replicas[replica]
        known.attempt += 1
        try:
            self.enter(at, session, known.attempt)
            if (order := at.sessions.get(session)) is not None:
                order.supersede(known.attempt)
                order.put_at(len(self.shown[session]))
                known.replica = replica
        except Superseded:
            self.superseded(gateway, session)

    @precondition(anybody)
    @rule(data=st.data(), late=st.integers(0, 3))
    def make_block(self, data: st.DataObject, late: int) -> None:
        """A call of this attempt, or of one some recoveries ago, arrives; what comes of it is shown once its page is kept."""
        gateway, session, known = self.somebody(data)
        order = self.world.replicas[known.replica].sessions.get(session) if known.replica else None
        if order is None:
            return
        attempt = max(known.attempt - late, first_attempt(owner(known.attempt)))
        try:
            order.check(attempt)
            self.write(session, attempt)
        except ReplicaGone:
            return
        except Superseded:
            if attempt == known.attempt:
                self.superseded(gateway, session)
            return
        self.shown[session].append(attempt)

    def write(self, session: str, attempt: int) -> None:
        name = str(len(self.shown[session]))
        self.world.shelf.write(session, attempt, Writing({name: b"%d" % attempt}, (name,)))

    @precondition(anybody)
    @rule(data=st.data())
    def export(self, data: st.DataObject) -> None:
        """The replica sends the session's value to the Vault, on behalf of whoever it last worked for."""
        _, session, known = self.somebody(data)
        if known.replica and session in self.world.replicas[known.replica].sessions:
            blocks = len(self.shown[session])
            try:
                self.world.shelf.put(session, Part.DENOISER, blocks, b"%d" % known.attempt, known.attempt)
            except Superseded:
                return
            assert not any(owner(attempt) > owner(known.attempt) for attempt in self.shown[session])

    @precondition(anybody)
    @rule(data=st.data())
    def close_late(self, data: st.DataObject) -> None:
        """A replica is told to close what its caller gave up; the call is as old as it likes."""
        _, session, known = self.somebody(data)
        for replica in self.world.replicas.values():
            order = replica.sessions.get(session)
            try:
                self.enter(replica, session, known.attempt)
            except Superseded:
                continue
            if order is not None and known.replica == "":
                assert order._attempt <= known.attempt, "what a later owner holds was closed"

    @rule(replica=replicas)
    def replica_dies(self, replica: str) -> None:
        """And another takes its place, with the same short name and nothing in it."""
        self.world.replicas[replica] = Replica()

    @rule(gateway=gateways)
    def gateway_dies(self, gateway: str) -> None:
        """What it knew is lost; what it opened at replicas stays there."""
        self.world.gateways[gateway] = {}

    # ---- what must hold ----------------------------------------------------------------------------------------------------

    @invariant()
    def of_all_who_believe_to_have_a_session_redis_accepts_one(self) -> None:
        for session in SESSIONS:
            holders = [
                gateway
                for gateway, held in self.world.gateways.items()
                if session in held and self.ask(self.leases.renew(session, held[session].token, 60_000)) is None
            ]
            assert len(holders) <= 1, f"{session} is owned by {holders}"

    @invariant()
    def nothing_of_an_earlier_owner_is_shown_after_a_later_one_has_begun(self) -> None:
        for session, attempts in self.shown.items():
            owners = [owner(attempt) for attempt in attempts]
            assert owners == sorted(owners), f"{session} is owned by {owners}"


def test_no_interleaving_gives_a_session_two_owners(valkey: EmbeddedValkey) -> None:
    Ownership.url = valkey.url
    run_state_machine_as_test(
        Ownership,
        settings=settings(
            max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


class Unfenced(Ownership):
    """The same world where the Vault and the replicas do not ask for whom they work."""

    def read(self, session: str, attempt: int) -> None:
        pass

    def enter(self, replica: Replica, session: str, attempt: int) -> None:
        pass

    def write(self, session: str, attempt: int) -> None:
        pass

    def superseded(self, gateway: str, session: str) -> None:
        pass


def test_the_property_would_find_two_owners_without_the_fence(valkey: EmbeddedValkey) -> None:
    Unfenced.url = valkey.url
    with pytest.raises(BaseException, match=r"is owned by|a later owner holds"):
        run_state_machine_as_test(
            Unfenced,
            settings=settings(
                max_examples=200, stateful_step_count=40, deadline=None, database=None, derandomize=True,
                suppress_health_check=list(HealthCheck), phases=[Phase.generate],
            ),
        )  # fmt: skip
