"""The allow-list: what each entry opens, and that of two rules the nearer one decides."""

from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alcove.contract import InvalidRequest
from alcove.egress.policy import Kind, Policy, Rule

pytestmark = pytest.mark.user

LABELS = ["a", "b", "_c", "d-e"]
NAMES = st.lists(st.sampled_from(LABELS), max_size=3).map(lambda labels: ".".join([*labels, "example.org"]))
PORTS = st.sampled_from([22, 80, 443, 8080])


def rule(entries: list[str], name: str, port: int) -> tuple[str, Kind] | None:
    found = Policy.parse(entries).rule(name, port)
    return None if found is None else (found.entry, found.kind)


def address_rule(entries: list[str], address: str, port: int) -> str | None:
    found = Policy.parse(entries).address_rule(ip_address(address), port)
    assert found is None or found.kind is Kind.ADDRESS
    return None if found is None else found.entry


@pytest.mark.security
def test_an_empty_list_denies_everything() -> None:
    policy = Policy.parse([])
    assert (policy.entries, policy.networks) == ((), ())
    assert not policy.resolves("example.org")
    assert not policy.resolves("")
    assert policy.rule("example.org", 443) is None
    assert policy.address_rule(ip_address("93.184.215.14"), 443) is None
    assert policy.ports("example.org") == ()


@pytest.mark.security
@pytest.mark.parametrize("entries", ["*", "example.org", ""])
def test_one_text_is_no_list(entries: str) -> None:
    with pytest.raises(InvalidRequest, match="must be a list of entries, not one text"):
        Policy.parse(entries)


@pytest.mark.security
@pytest.mark.parametrize("entry", [None, 1, b"example.org", ["example.org"]])
def test_an_entry_is_a_text(entry: object) -> None:
    with pytest.raises(InvalidRequest, match=f"must be a text, got one of type {type(entry).__name__}"):
        Policy.parse([entry])  # type: ignore[list-item]


def test_a_name_is_reached_at_the_ports_of_the_web() -> None:
    assert rule(["example.org"], "example.org", 443) == ("example.org", Kind.WEB)
    assert rule(["example.org"], "example.org", 80) == ("example.org", Kind.WEB)
    assert rule(["example.org"], "example.org", 22) is None
    assert Policy.parse(["example.org"]).ports("example.org") == (80, 443)


@pytest.mark.security
def test_a_name_is_no_other_name() -> None:
    policy = Policy.parse(["api.example.org"])
    for other in ("example.org", "x.api.example.org", "xapi.example.org", "api.example.org.evil.net", "org", ""):
        assert not policy.resolves(other)
        assert policy.rule(other, 443) is None


@pytest.mark.security
def test_a_wildcard_is_every_name_below_and_not_the_apex() -> None:
    policy = Policy.parse(["*.example.org"])
    for name in ("a.example.org", "a.b.c.example.org"):
        assert policy.resolves(name)
        assert policy.rule(name, 443) == Rule("*.example.org", Kind.WEB)
        assert policy.rule(name, 22) is None
    for name in ("example.org", "xexample.org", "a.example.org.evil.net", "a.example.net", ".example.org"[1:]):
        assert not policy.resolves(name)


def test_a_port_makes_an_origin() -> None:
    policy = Policy.parse(["git.example.org:22", "*.db.example.org:5432"])
    assert policy.rule("git.example.org", 22) == Rule("git.example.org:22", Kind.ORIGIN)
    assert policy.rule("git.example.org", 443) is None
    assert policy.ports("git.example.org") == (22,)
    assert policy.rule("x.db.example.org", 5432) == Rule("*.db.example.org:5432", Kind.ORIGIN)
    assert policy.rule("db.example.org", 5432) is None


@pytest.mark.parametrize("order", [1, -1])
def test_an_origin_wins_over_the_web_rule_of_the_same_name(order: int) -> None:
    entries = ["example.org", "example.org:443"][::order]
    assert rule(entries, "example.org", 443) == ("example.org:443", Kind.ORIGIN)
    assert rule(entries, "example.org", 80) == ("example.org", Kind.WEB)


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearest_rule_decides(order: int) -> None:
    entries = ["*.example.org:443", "*.b.example.org", "a.b.example.org", "*.example.org:22"][::order]
    assert rule(entries, "a.b.example.org", 443) == ("a.b.example.org", Kind.WEB)
    assert rule(entries, "x.b.example.org", 443) == ("*.b.example.org", Kind.WEB)
    assert rule(entries, "x.example.org", 443) == ("*.example.org:443", Kind.ORIGIN)
    assert rule(entries, "a.b.example.org", 22) == ("*.example.org:22", Kind.ORIGIN)
    assert Policy.parse(entries).ports("a.b.example.org") == (22, 80, 443)


def test_spellings_of_a_name_are_one() -> None:
    policy = Policy.parse(["EXAMPLE.Org.", "*.Example.NET.:8443", "example.org"])
    assert policy.rule("example.org", 443) == Rule("EXAMPLE.Org.", Kind.WEB)
    assert policy.rule("a.example.net", 8443) == Rule("*.Example.NET.:8443", Kind.ORIGIN)
    assert policy.entries == ("EXAMPLE.Org.", "*.Example.NET.:8443", "example.org")


def test_the_loopback_of_the_host_is_a_name_with_a_port() -> None:
    policy = Policy.parse(["Host.Alcove:5432", "host.alcove:80"])
    assert policy.rule("host.alcove", 5432) == Rule("Host.Alcove:5432", Kind.HOST_LOOPBACK)
    assert policy.rule("host.alcove", 80) == Rule("host.alcove:80", Kind.HOST_LOOPBACK)
    assert policy.rule("host.alcove", 443) is None
    assert policy.resolves("host.alcove")
    assert not policy.resolves("x.host.alcove")
    assert policy.ports("host.alcove") == (80, 5432)


@pytest.mark.parametrize(
    ("entry", "address", "port", "allowed"),
    [
        ("93.184.215.14", "93.184.215.14", 1, True),
        ("93.184.215.14", "93.184.215.15", 1, False),
        ("93.184.215.14:443", "93.184.215.14", 443, True),
        ("93.184.215.14:443", "93.184.215.14", 80, False),
        ("10.0.0.0/8", "10.255.1.2", 22, True),
        ("10.0.0.0/8", "11.0.0.0", 22, False),
        ("10.0.0.0/8:22", "10.255.1.2", 22, True),
        ("10.0.0.0/8:22", "10.255.1.2", 23, False),
        ("10.1.2.3/32", "10.1.2.3", 22, True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", 22, True),
        ("[2001:db8::1]", "2001:db8::1", 22, True),
        ("[2001:DB8:0::1]:443", "2001:db8::1", 443, True),
        ("[2001:db8::1]:443", "2001:db8::1", 80, False),
        ("[fd00::/8]", "fd12::1", 80, True),
        ("[fd00::/8]:80", "fd12::1", 81, False),
        ("fd00::/8", "fd12::1", 80, True),
        ("fd00::/8", "fc12::1", 80, False),
        ("fc00::/7", "fd12::1", 80, True),
        ("2001:db8::/32", "10.0.0.1", 80, False),
    ],
)
def test_an_address_is_reached_when_it_is_written_out(entry: str, address: str, port: int, allowed: bool) -> None:
    assert address_rule([entry], address, port) == (entry if allowed else None)
    assert not Policy.parse([entry]).resolves(address)


def test_networks_are_what_needs_a_route() -> None:
    entries = [
        "10.0.0.0/9:22",
        "10.128.0.0/9",
        "10.1.2.3:80",
        "[fd00::1]:80",
        "fd00::1/128",
        "192.0.2.1",
        "example.org",
    ]
    assert Policy.parse(entries).networks == (
        IPv4Network("10.0.0.0/8"),
        IPv4Network("192.0.2.1/32"),
        IPv6Network("fd00::1/128"),
    )


def test_another_fake_range_frees_the_usual_one() -> None:
    assert address_rule(["10.0.0.1"], "10.0.0.1", 80) == "10.0.0.1"
    with pytest.raises(InvalidRequest, match=r"overlaps 10\.0\.0\.0/9"):
        Policy.parse(["10.0.0.1"], fake=IPv4Network("10.0.0.0/9"))
    assert Policy.parse(["198.18.0.1"], fake=IPv4Network("10.0.0.0/9")).networks == (IPv4Network("198.18.0.1/32"),)


entry = st.builds(
    lambda star, name, port: star + name + port,
    st.sampled_from(["", "*."]),
    NAMES,
    st.sampled_from(["", ":22", ":443", ":8080"]),
)


def _model(entries: list[str], name: str, port: int) -> str | None:
    """Say by brute force which entry decides: the longest pattern that fits, and of those the one with the port."""
    fitting = []
    for at, text in enumerate(entries):
        pattern, _, number = text.partition(":")
        exact = pattern == name
        below = pattern.startswith("*.") and name.endswith(pattern[1:]) and name != pattern[2:]
        if (exact or below) and (int(number) == port if number else port in {80, 443}):
            fitting.append((exact, len(pattern), bool(number), -at, text))
    return max(fitting)[4] if fitting else None


@pytest.mark.security
@given(st.lists(entry, max_size=6), NAMES, PORTS)
def test_rules_are_found_as_by_brute_force(entries: list[str], name: str, port: int) -> None:
    policy = Policy.parse(entries)
    found = policy.rule(name, port)
    assert (found.entry if found else None) == _model(entries, name, port)
    assert policy.resolves(name) == any(_model(entries, name, port) for port in (22, 80, 443, 8080))
    assert set(policy.ports(name)) == {port for port in (22, 80, 443, 8080) if policy.rule(name, port)}


# Why not


@pytest.mark.parametrize(
    ("entries", "name", "port", "told"),
    [
        ([], "api.example.org", None, "no entry has api.example.org; to allow it: --allow api.example.org"),
        ([], "api.example.org", 443, "no entry has api.example.org; to allow it: --allow api.example.org"),
        ([], "db.example.org", 5432, "no entry has db.example.org; to allow it: --allow db.example.org:5432"),
        (["a.org"], "a.org", 22, "a.org is allowed at 80, 443 only; to allow it: --allow a.org:22"),
        (["a.org:22"], "a.org", 443, "a.org is allowed at 22 only; to allow it: --allow a.org"),
        (
            ["*.a.org"],
            "a.org",
            80,
            "`*.a.org` allows the names below a.org, not a.org itself; to allow it: --allow a.org",
        ),
        ([], "host.alcove", 5432, "no entry has host.alcove; to allow it: --allow host.alcove:5432"),
        ([], "host.alcove", 443, "no entry has host.alcove; to allow it: --allow host.alcove:443"),
        ([], "10.1.2.3", 22, "no entry has 10.1.2.3; to allow it: --allow 10.1.2.3:22"),
        ([], "10.1.2.3", None, "no entry has 10.1.2.3; to allow it: --allow 10.1.2.3"),
        ([], "2001:db8::1", 22, "no entry has 2001:db8::1; to allow it: --allow [2001:db8::1]:22"),
        ([], "127.0.0.1", 22, "no entry has 127.0.0.1; to allow it: --allow host.alcove:22"),
    ],
)
def test_a_denial_says_what_to_add(entries: list[str], name: str, port: int | None, told: str) -> None:
    assert Policy.parse(entries).why_not(name, port) == told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "169.254.169.254",
            "no entry has 169.254.169.254, and none can: allowed_hosts entry `169.254.169.254:80` is the",
        ),
        (
            "x.alcove",
            "no entry has x.alcove, and none can: allowed_hosts entry `x.alcove` names nothing: `host.alcove:",
        ),
        ("::ffff:a01:203", "carries an IPv4 address: write that one, `10.1.2.3:80`"),
    ],
)
def test_a_denial_that_no_entry_can_lift_says_so(name: str, told: str) -> None:
    assert told in Policy.parse([]).why_not(name, 80)


@given(st.lists(entry, max_size=3), NAMES, PORTS)
def test_what_a_denial_proposes_lifts_it(entries: list[str], name: str, port: int) -> None:
    policy = Policy.parse(entries)
    if policy.rule(name, port) is None:
        proposed = policy.why_not(name, port).rpartition(" --allow ")[2]
        assert Policy.parse([*entries, proposed]).rule(name, port) is not None
