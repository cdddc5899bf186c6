"""One session's resolver without its sockets, and what it says of denials."""

from dataclasses import dataclass, field
from ipaddress import IPv4Network

import dns.message
import dns.name
import dns.rcode

from alcove.egress.dns import Answerer
from alcove.egress.pool import FakePool

RANGE = IPv4Network("198.18.0.0/15")
ALLOWED = {"api.example.org", "host.alcove", "xn--bcher-kva.example"}
LONG = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 49, "example.org"])  # 253 characters


@dataclass
class Guest:
    """One session's answerer, and all that it says of denials."""

    limit: int = 16
    denied: list[tuple[str, str]] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool = FakePool(RANGE, "s-guest", limit=self.limit)
        self.answerer = Answerer(self.resolves, self.pool, lambda name, reason: self.denied.append((name, reason)))

    def resolves(self, name: str) -> bool:
        self.looked_up.append(name)
        return name in ALLOWED or name == LONG or name.endswith(".wild.example")

    def ask(self, name: str | dns.name.Name, kind: str = "A", *, edns: int = 0) -> dns.message.Message:
        return self.send(dns.message.make_query(name, kind, use_edns=edns))

    def send(self, query: dns.message.Message) -> dns.message.Message:
        wire = self.answerer.answer(query.to_wire())
        assert wire is not None
        response = dns.message.from_wire(wire)
        assert query.is_response(response) or response.rcode() in {dns.rcode.FORMERR, dns.rcode.NOTIMP}
        return response


def values(response: dns.message.Message) -> list[str]:
    return [str(record) for rrset in response.answer for record in rrset]


def query_wire() -> bytes:
    return dns.message.make_query("api.example.org", "A", use_edns=0).to_wire()
