"""What the attacks on egress must notice when it is missing from the service: one function for each control.

The service is a process that the keeper starts, with the PYTHONPATH of whoever started the keeper. There the site
module finds what applies the mutant, before anything else runs.
"""

import asyncio
import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

TREE = Path(__file__).parent.parent.parent
_SITE = """
import sys
if any("alcove.local.keeper" in word for word in sys.orig_argv):
    from tests.security.egress_mutants import MUTANTS
    MUTANTS[{name!r}]()
"""


def infect(name: str) -> None:
    """Let every keeper that this process starts run without a control."""
    assert name in MUTANTS
    place = tempfile.mkdtemp(prefix="alcove-mutant-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    Path(place, "sitecustomize.py").write_text(_SITE.format(name=name))
    found = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    os.environ["PYTHONPATH"] = os.pathsep.join([place, *found, str(TREE), *filter(None, sys.path)])


def replaced(owner: object, name: str, value: object) -> None:
    setattr(owner, name, value)


def every_address_is_dialled() -> None:
    from alcove.egress.addresses import AddressFilter

    replaced(AddressFilter, "refusal", lambda *_, **__: None)


def own_addresses_are_dialled() -> None:
    from alcove.egress import service

    replaced(service, "own_addresses", frozenset)


def nothing_is_inspected() -> None:
    from alcove.egress import connection, inspect

    replaced(connection, "inspector", lambda *_: inspect.Inspector())


def only_the_first_request_is_inspected() -> None:
    from alcove.egress.http1 import RequestStream

    real = RequestStream._end_head

    def end_head(stream: RequestStream, head: Any) -> None:
        real(stream, head)
        stream._step = RequestStream._opaque

    replaced(RequestStream, "_end_head", end_head)


def a_host_is_not_compared() -> None:
    from alcove.egress.heads import Head

    replaced(Head, "check_origin", lambda *_: None)


def a_server_name_is_not_compared() -> None:
    from alcove.egress.inspect import Tls

    replaced(Tls, "_check", lambda *_: None)


def a_server_name_may_be_missing() -> None:
    from alcove.egress import inspect

    real = inspect.Tls._check

    def check(tls: inspect.Tls, hello: Any) -> None:
        if hello.sni is not None:
            real(tls, hello)

    replaced(inspect.Tls, "_check", check)


def no_tls_passes() -> None:
    from alcove.egress import inspect

    replaced(inspect.Tls, "feed", inspect.TlsIfAny.feed)


def every_port_is_allowed() -> None:
    from alcove.egress.policy import Policy, Rule

    def rule(policy: Policy, name: str, _: int) -> Rule | None:
        return next((found for ports in policy._nearest(name) for found in ports.values()), None)

    replaced(Policy, "rule", rule)


def every_name_is_allowed() -> None:
    from alcove.egress.policy import Kind, Policy, Rule

    replaced(Policy, "rule", lambda *_: Rule("", Kind.ORIGIN))
    replaced(Policy, "resolves", lambda *_: True)


def every_name_resolves() -> None:
    from alcove.egress.policy import Policy

    replaced(Policy, "resolves", lambda *_: True)


def a_name_is_asked_for_at_once() -> None:
    from alcove.egress.session import Session

    real = Session._resolves

    def resolves(session: Session, name: str) -> bool:
        _asking.add(session._loop.create_task(_quietly(session.dialler._resolver.resolve(name))))
        return real(session, name)

    replaced(Session, "_resolves", resolves)


_asking: set[asyncio.Task[None]] = set()


async def _quietly(work: Any) -> None:
    await asyncio.gather(work, return_exceptions=True)


def one_pool_for_all() -> None:
    from alcove.egress import pool as pool_module
    from alcove.egress import session

    pools: list[Any] = []
    real = pool_module.FakePool

    def pool(*arguments: Any) -> Any:
        if not pools:
            pools.append(real(*arguments))
        return pools[0]

    replaced(session, "FakePool", pool)


def one_policy_for_all() -> None:
    from alcove.egress.policy import Policy
    from alcove.egress.session import Session

    entries: list[str] = []
    sessions: list[Session] = []
    real = Session.__init__

    def init(session: Session, session_id: str, policy: Policy, *rest: Any) -> None:
        entries.extend(policy.entries)
        real(session, session_id, policy, *rest)
        sessions.append(session)
        for each in sessions:
            each.policy = Policy.parse(entries)

    replaced(Session, "__init__", init)


def a_strange_address_is_the_first_name() -> None:
    from alcove.egress.pool import FakePool

    real = FakePool.name

    def name(pool: FakePool, address: IPv4Address) -> str | None:
        return real(pool, address) or next(iter(pool._addresses), None)

    replaced(FakePool, "name", name)


def the_original_destination_is_not_asked() -> None:
    from alcove.egress.connection import Connection, Destination

    def original(connection: Connection) -> Destination:
        pool = connection._session.pool
        port = connection._guest.getsockname()[1]
        first = next(iter(pool._addresses), "")
        return Destination(IPv4Address("198.18.1.0"), 80 if port == 1 else port, first)

    replaced(Connection, "_original", original)


def tunnels_outlive_their_policy() -> None:
    from alcove.egress.session import Session

    async def apply(session: Session, policy: Any) -> int:
        session.policy = policy
        return 0

    replaced(Session, "apply", apply)


def policies_stay() -> None:
    from alcove.egress.session import Session

    async def apply(*_: object) -> int:
        return 0

    replaced(Session, "apply", apply)


def a_rule_is_asked_once() -> None:
    from alcove.egress.connection import Connection

    tunnels_outlive_their_policy()
    replaced(Connection, "_still", lambda *_: None)


def a_head_may_take_for_ever() -> None:
    from alcove.egress import connection

    replaced(connection, "HEAD_WITHIN_S", 1e6)


def any_number_of_connections() -> None:
    from alcove.egress import session

    replaced(session, "MOST_CONNECTIONS", 1 << 30)


def a_door_closes_for_want_of_descriptors() -> None:
    from alcove.egress.service import Door

    async def accept(door: Door) -> Any:
        return (await door._service._loop.sock_accept(door._listener))[0]

    replaced(Door, "_accepted", accept)


def guests_take_the_last_descriptors() -> None:
    from alcove.egress import descriptors

    replaced(descriptors, "check", lambda _: None)


def what_was_given_up_is_done() -> None:
    from alcove.egress import service

    replaced(service, "_hung_up", lambda _: False)


def other_types_do_not_exist() -> None:
    from alcove.egress import dns

    replaced(dns, "_NO_DATA", dns._NO_SUCH_NAME)


def a_denial_is_not_told() -> None:
    from alcove.egress.audit import AuditLog

    replaced(AuditLog, "add", lambda *_: None)


def all_answers_are_dialled() -> None:
    """One good address among those of a name opens all of them."""
    from alcove.egress.dial import Dialler

    real = Dialler._allowed

    def allowed(dialler: Dialler, found: Any, *, written: bool) -> Any:
        real(dialler, found, written=written)
        return found

    replaced(Dialler, "_allowed", allowed)


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        every_address_is_dialled,
        own_addresses_are_dialled,
        nothing_is_inspected,
        only_the_first_request_is_inspected,
        a_host_is_not_compared,
        a_server_name_is_not_compared,
        a_server_name_may_be_missing,
        no_tls_passes,
        every_port_is_allowed,
        every_name_is_allowed,
        every_name_resolves,
        a_name_is_asked_for_at_once,
        one_pool_for_all,
        one_policy_for_all,
        a_strange_address_is_the_first_name,
        the_original_destination_is_not_asked,
        tunnels_outlive_their_policy,
        policies_stay,
        a_rule_is_asked_once,
        a_head_may_take_for_ever,
        any_number_of_connections,
        a_door_closes_for_want_of_descriptors,
        guests_take_the_last_descriptors,
        what_was_given_up_is_done,
        other_types_do_not_exist,
        a_denial_is_not_told,
        all_answers_are_dialled,
    )
}
