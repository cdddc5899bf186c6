"""Every over-broad, ambiguous or look-alike entry is refused, by name, with what to write instead."""

import re
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alcove.contract import InvalidRequest
from alcove.egress.entries import is_public_suffix
from alcove.egress.policy import Policy

pytestmark = [pytest.mark.user, pytest.mark.security]

PROPOSED = re.compile(r"write .*")
QUOTED = re.compile(r"`([^`]+)`")


def refused(entry: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        Policy.parse(["example.org", entry])
    assert caught.value.detail.startswith("allowed_hosts entry `")
    return caught.value.detail


#: Every proposal in a refusal's `write ...` is itself an entry (capitals stand for any), so these are tests twice.
REFUSED = {
    "every host": ["*", "*:443", "**", "*.*", "*.", "**.", "*.*.*:80", ".*"],
    "all of `com`, a whole top-level domain": ["*.com", "*.COM.", "*.com:443"],
    "all of `corp`, a whole top-level domain": ["*.corp"],
    "all of `co.uk`, a public suffix": ["*.co.uk", "*.CO.UK."],
    "all of `kawasaki.jp`, a public suffix": ["*.kawasaki.jp"],
    "all of `anything.ck`, a public suffix": ["*.anything.ck"],
    "all of `xn--p1ai`, a whole top-level domain": ["*.xn--p1ai"],
    "as in `*.example.org`": [
        "a*.example.org",
        "*a.example.org",
        "**.example.org",
        "a.*.example.org",
        "*.*.example.org",
    ],
    "as in `*.example.org:443`": ["a*.co.uk:443", "*a.com:443", "a.*:443"],
    "begins with a dot: write `*.example.org` or `example.org`": [".example.org"],
    "begins with a dot: write `com`": [".com"],
    "an empty label": ["example..org", "*..example.org", "example.org..", ".."],
    "is empty": ["", "."],
    "white space, NUL": ["exa\0mple.org", " example.org", "example.org\n", "a.org b.org", "\x1b[2Jexample.org", "\x7f"],
    "several hosts": ["a.org,b.org", "a.org;b.org"],
    "the list only allows": ["!evil.org", "~.*", "^example"],
    "told apart: write `example.org`": [
        "https://example.org",
        "http://example.org:80/",
        "HTTPS://Example.org/v1?key=1",
        "wss://example.org/socket",
        "example.org/v1",
        "example.org?x",
        "example.org#x",
        "//example.org/",
        "user@example.org",
    ],
    "told apart: write `example.org:8080`": [
        "http://example.org:8080/",
        "https://u:p@example.org:8080",
        "example.org:8080/x",
    ],
    "told apart: write `example.org:80`": ["https://example.org:80"],
    "told apart: write `example.org:22`": ["ssh://git@example.org/x", "git@example.org:group/project.git"],
    "told apart: write `db.example.org:PORT`": ["postgres://db.example.org/x"],
    "told apart: write `[2001:db8::1]:8443`": ["https://[2001:db8::1]:8443/"],
    "told apart: write `HOST` or `HOST:PORT`": ["http://", "http://[::1", "://", "/", "@", "http://u:p/w@example.org/"],
    "its `localhost:8080` is a session's own loopback": ["http://localhost:8080/"],
    "its `*` allows every host": ["https://*/"],
    "its `127.0.0.1:81` is loopback, a session's own there: for this host's loopback write `host.alcove:81`": [
        "http://127.0.0.1:81/x"
    ],
    "no port that can be dialled": ["example.org:0", "example.org:*"],
    "no port from 1 to 65535": [
        "example.org:",
        "example.org:65536",
        "example.org:-1",
        "example.org:https",
        "example.org:80-90",
        "example.org:+80",
        "10.0.0.1:99999999999999999999",
        "[2001:db8::1]:",
    ],
    "write `443` after the colon": ["example.org:0443", "[2001:db8::1]:0443"],
    "more than one colon": ["example.org:80:90", "a::b.org"],
    "names no host: write `host:443`": [":443"],
    "has U+0430 (CYRILLIC SMALL LETTER A), which is not ASCII: if that is the name meant, write `xn--pple-43d.com`": [
        "\u0430pple.com"
    ],
    "write `*.xn--pple-43d.com:443`": ["*.\u0430pple.com:443"],
    "has U+FF45 (FULLWIDTH LATIN SMALL LETTER E), which is not ASCII: if that is the name meant, write `example.org`": [
        "\uff45xample.org"
    ],
    "has U+200D (ZERO WIDTH JOINER)": ["exam\u200dple.org"],
    "has U+202E (RIGHT-TO-LEFT OVERRIDE)": ["\u202egro.elpmaxe"],
    "has U+FF0E (FULLWIDTH FULL STOP)": ["example\uff0eorg"],
    "has U+FF10 (FULLWIDTH DIGIT ZERO)": ["1\uff10.0.0.1"],
    "has U+0660 (ARABIC-INDIC DIGIT ZERO)": ["example.org:8\u0660", "10.0.0.0/2\u0660"],
    "the label `xn--a`, which is no punycode": ["xn--a.org", "*.xn--a.org"],
    "is no host name: it has `%`": ["ex%61mple.org", "%2e.org"],
    "is no host name: it has `$`": ["$HOST"],
    "a label with `-` at an end": ["-example.org", "example-.org", "xn--example-.org"],
    "a label of 64 characters": ["x" * 64 + ".org"],
    "a form that programs read differently: write `10.0.0.1` or `8.0.0.1`": ["010.0.0.1"],
    "a form that programs read differently: write `8.8.8.8:53`": ["08.8.8.8:53", "8.8.8.8.:53", "134744072:53"],
    "a form that programs read differently: write `177.0.0.1:80` or `host.alcove:80`": ["0177.0.0.1:80"],
    "a form that programs read differently: write `host.alcove:PORT`": [
        "127.1",
        "0x7f.1",
        "2130706433",
        "127.0.0.1..",
        "0",
    ],
    "neither an address nor a name": ["256.1.1.1", "1.2.3.4.5", "example.123", "*.0.0.1", "0x", "1.2.3.4.example.0x1"],
    "has `*` in an address: write the network, `10.0.0.0/24`": ["10.0.0.*"],
    "has `*` in an address: write the network, `10.0.0.0/8:443`": ["10.*:443", "10.*.*.*:443"],
    "a range of addresses": ["10.0.0.1-10.0.0.9", "10.0.0.1-20"],
    "bits set beyond /8: write `10.0.0.0/8` for the network, or `10.1.2.3` for the one address": ["10.1.2.3/8"],
    "bits set beyond /32: write `[2001:db8::/32]:1` for the network, or `[2001:db8::1]:1`": ["[2001:db8::1/32]:1"],
    "no plain prefix length after its slash: write `10.0.0.0/8`": ["10.0.0.0/255.0.0.0", "10.0.0.0/08"],
    "no plain prefix length after its slash: write `10.0.0.0/24`": ["10.0.0.0/0.0.0.255"],
    "no prefix length, 1 to 32": ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/x", "10.0.0.0/-1"],
    "no prefix length, 1 to 128": ["fd00::/129", "[fd00::/]"],
    "every address there is": ["0.0.0.0/0", "::/0", "1.2.3.4/0", "[::/0]:443", "0.0.0.0/0.0.0.0"],
    "too wide: write networks of /8": ["0.0.0.0/1", "128.0.0.0/1", "8.0.0.0/7"],
    "too wide: write networks of /24": ["2000::/3", "2600::/16", "fc00::/6", "::/1"],
    "is loopback": ["127.0.0.1:8080", "127.0.0.0/8", "127.1.2.3", "[::1]", "[::1]:80", "::1/128", "127.0.0.1/8"],
    "is unspecified": ["0.0.0.0", "0.0.0.0:80", "[::]:80", "0.1.2.3", "0.0.0.0/8"],
    "is link-local": ["169.254.0.0/16", "169.254.1.1", "[fe80::1]", "fe80::/10"],
    "is the metadata service of a cloud": [
        "169.254.169.254",
        "169.254.169.254:80",
        "2852039166",
        "0xA9FEA9FE",
        "[fd00:ec2::254]:80",
        "100.100.100.200",
        "168.63.129.16:80",
        "169.254.169.254/32",
    ],
    "is multicast": ["224.0.0.1", "239.0.0.0/8", "[ff02::1]"],
    "is broadcast": ["255.255.255.255"],
    "overlaps 198.18.0.0/15": ["198.18.0.1", "198.0.0.0/8", "198.19.255.0/24"],
    "carries an IPv4 address: write that one, `10.0.0.1:80`": [
        "[::ffff:10.0.0.1]:80",
        "[::ffff:a00:1]:80",
        "[64:ff9b::a00:1]:80",
        "[::10.0.0.1]:80",
        "[2002:a00:1::1]:80",
    ],
    "carries an IPv4 address: write that one, `host.alcove:PORT`": ["[::ffff:7f00:1]"],
    "carries an IPv4 address: write the IPv4 network": ["64:ff9b::/96", "::ffff:0:0/96", "::/96", "2002::/24"],
    "has a zone": ["[fe80::1%lo]", "[2001:db8::1%eth0]:80"],
    "may end in a port or not: write `[fd00::1]`": ["fd00::1"],
    "a port after an IPv6 network: write `[fd00::/8]:443`": ["fd00::/8:443"],
    "is longer than any host": ["x" * 507, "1" * 10_000_000, "\u4f8b" * 1_000_000, "[" + "1:" * 10_000 + "]"],
    "brackets astray": ["[fd00::]/8", "[", "[]", "[[::1]]", "[2001:db8::1]443", "[2001:db8::1"],
    "is no IPv6 address": ["[2001:db8:::1]", "[12345::]", "[1:2:3]"],
    "brackets, which are for IPv6: write `10.0.0.1:80`": ["[10.0.0.1]:80"],
    "brackets, which are for IPv6: write `example.org`": ["[example.org]"],
    "a session's own loopback there: for this host's write `host.alcove:80`": [
        "localhost:80",
        "LOCALHOST.:80",
        "x.localhost:80",
        "*.dev.localhost:80",
        "ip6-localhost:80",
    ],
    "needs a port": ["host.alcove", "HOST.alcove."],
    "names nothing: `host.alcove:PORT`": ["*.alcove", "x.alcove", "alcove", "*.host.alcove"],
}
CASES = [(entry, told) for told, entries in REFUSED.items() for entry in entries]


@pytest.mark.parametrize(("entry", "told"), CASES, ids=[repr(entry[:60]) for entry, _ in CASES])
def test_what_no_list_should_have_is_refused(entry: str, told: str) -> None:
    assert told in refused(entry)


@pytest.mark.parametrize("entry", [entry for entry, _ in CASES], ids=lambda entry: repr(entry[:60]))
def test_what_a_refusal_proposes_is_taken(entry: str) -> None:
    proposals = [form for text in PROPOSED.findall(refused(entry)) for form in QUOTED.findall(text)]
    taken = [form.replace("PORT", "1").replace("ADDRESS", "2001:db8::1").replace("HOST", "a.org") for form in proposals]
    Policy.parse([form for form in taken if form not in {"443", "unrestricted", "xn--..."}])


@pytest.mark.parametrize(
    "entry",
    [
        "com",
        "*.github.io",
        "*.example.co.uk",
        "*.city.kawasaki.jp",
        "*.www.ck",
        "*.example.corp",
        "*.xn--e1afmkfd.xn--p1ai",
        "intranet:8080",
        "_x.example.org",
        "example.org:65535",
        "8.0.0.0/8",
        "2600:1f00::/24",
        "fc00::/7",
        "203.0.113.5:443",
    ],
)
def test_what_is_narrow_enough_is_taken(entry: str) -> None:
    assert Policy.parse([entry]).entries == (entry,)


@pytest.mark.parametrize(
    "entry", ["https://user:hunter2@example.org/", "user:hunter2@example.org", "x://a@b:hunter2@[c", "u:hunter2/@h,i"]
)
def test_a_password_is_not_shown(entry: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Policy.parse([entry])
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("com", True),
        ("unheard-of", True),
        ("co.uk", True),
        ("bbc.co.uk", False),
        ("kawasaki.jp", True),
        ("any.kawasaki.jp", True),
        ("city.kawasaki.jp", False),
        ("github.io", False),
        ("in-addr.arpa", True),
    ],
)
def test_a_public_suffix_is_one_of_icanns(name: str, public: bool) -> None:
    assert is_public_suffix(name) is public


@given(st.text(st.characters(), max_size=30))
@example("\ud800")
@example("[" + "1:" * 400 + "]")
@example("1" * 5000)
@example("x:" + "9" * 5000)
@example("1.1.1.1/" + "9" * 5000)
def test_any_text_is_an_entry_or_an_invalid_request(entry: str) -> None:
    try:
        Policy.parse([entry])
    except InvalidRequest as error:
        shown = error.detail
    else:
        return
    assert all(" " <= char <= "~" for char in shown)
    assert len(shown) < 600


@given(st.text(st.sampled_from("0127.*/:[]x-a@%"), max_size=20))
def test_what_is_taken_as_a_name_is_no_address(entry: str) -> None:
    try:
        policy = Policy.parse([entry])
    except InvalidRequest:
        return
    if not policy.networks:
        bare = entry.rpartition(":")[0] or entry
        with pytest.raises(ValueError, match="does not appear to be"):
            ip_address(bare)


@given(st.ip_addresses())
def test_an_address_is_taken_in_one_spelling_for_itself_alone(ip: object) -> None:
    text = f"[{ip}]" if ":" in str(ip) else str(ip)
    try:
        policy = Policy.parse([text])
    except InvalidRequest:
        return
    (network,) = policy.networks
    assert str(network.network_address) == str(ip)
    assert network.num_addresses == 1
