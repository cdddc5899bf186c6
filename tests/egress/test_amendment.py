"""An allow-list with entries added and taken out, and what is missing on it."""

from ipaddress import ip_network

import pytest

from alcove.contract import InvalidRequest
from alcove.egress.amendment import amended
from alcove.egress.policy import Policy

pytestmark = pytest.mark.user

FAKE = ip_network("198.18.0.0/15")


def changed(entries: str, allow: str = "", deny: str = "") -> str:
    return " ".join(amended(entries.split(), allow.split(), deny.split(), FAKE))


def test_spellings_of_one_entry_are_one() -> None:
    assert changed("a.test b.test", allow="A.test. c.test c.test") == "a.test b.test c.test"
    assert changed("A.test. b.test a.test", deny="a.TEST") == "b.test"
    assert changed("a.test a.test:443 *.a.test", deny="a.test") == "a.test:443 *.a.test"
    assert changed("[2001:db8::1]:80", deny="[2001:DB8:0::1]:80") == ""


def test_what_is_denied_and_allowed_in_one_go_stays() -> None:
    assert changed("a.test b.test", allow="a.test", deny="a.test") == "b.test a.test"


@pytest.mark.parametrize(
    ("entries", "entry", "message"),
    [
        ("", "a.test", "`a.test` is not on the allow-list, which is empty"),
        ("*.a.test", "x.a.test", "`x.a.test` is not on the allow-list: `*.a.test` allows it"),
        ("x.a.test:443", "x.a.test", "`x.a.test` is not on the allow-list: `x.a.test:443` allows it"),
        ("web.test api.test", "wep.test", "`wep.test` is not on the allow-list: did you mean `web.test`?"),
        ("web.test api.test", "10.0.0.1", "`10.0.0.1` is not on the allow-list, which has: web.test, api.test"),
    ],
)
def test_what_is_not_there_cannot_be_taken_out(entries: str, entry: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        changed(entries, deny=entry)
    assert caught.value.detail == message


@pytest.mark.parametrize("field", ["allow", "deny"])
def test_an_entry_that_cannot_be(field: str) -> None:
    with pytest.raises(InvalidRequest, match=r"allowed_hosts entry `\*`"):
        changed("a.test", **{field: "*"})


@pytest.mark.parametrize(
    ("name", "port", "entry"),
    [
        ("other.test", None, "other.test"),
        ("other.test", 443, "other.test"),
        ("other.test", 22, "other.test:22"),
        ("web.test", 22, "web.test:22"),
        ("10.0.0.9", 80, "10.0.0.9:80"),
        ("2001:db8::9", 80, "[2001:db8::9]:80"),
        ("host.alcove", 80, "host.alcove:80"),
        # allowed
        ("web.test", None, None),
        ("web.test", 443, None),
        ("10.0.0.1", 80, None),
        # no policy can
        ("host.alcove", None, None),
        ("a b", None, None),
        ("", None, None),
    ],
)
def test_what_is_missing(name: str, port: int | None, entry: str | None) -> None:
    policy = Policy.parse(["web.test", "10.0.0.1"])
    assert policy.missing(name, port) == entry
    if entry:
        assert Policy.parse([*policy.entries, entry]).missing(name, port) is None
