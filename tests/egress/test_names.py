"""The canonicaliser: one form for each name, and no form that anything else reads as an address."""

import ipaddress
import socket

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from alcove.egress import names
from alcove.egress.names import BadName, ascii_form, canonical, ends_in_number, is_false_a_label, printable

pytestmark = pytest.mark.user

label = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,8}[A-Za-z0-9_])?", fullmatch=True)
name = st.lists(label, min_size=1, max_size=5).map(".".join).filter(lambda text: not ends_in_number(text))
number = st.one_of(
    st.integers(0, 2**33).map(str),
    st.integers(0, 300).map(str),
    st.integers(0, 2**33).map(hex),
    st.integers(0, 300).map(lambda value: f"0X{value:X}"),
    st.integers(0, 300).map(lambda value: f"0{value:o}"),
    st.sampled_from(["", "0x", "00", "08", "*", "a"]),
)
address_like = st.tuples(st.lists(number, min_size=1, max_size=5).map(".".join), st.sampled_from(["", ".", "..", " x"]))


def refused(text: str | bytes) -> str:
    with pytest.raises(BadName) as caught:
        canonical(text)
    return str(caught.value)


def is_numeric_host(text: str) -> bool:
    """Ask the C library whether it would take `text` for an address; it looks nothing up."""
    try:
        socket.getaddrinfo(text, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return False
    return True


@pytest.mark.parametrize(
    ("written", "form"),
    [
        ("example.org", "example.org"),
        ("EXAMPLE.Org.", "example.org"),
        (b"Example.ORG.", "example.org"),
        ("xn--r8jz45g.jp", "xn--r8jz45g.jp"),
        ("_dmarc.a_b.example.org", "_dmarc.a_b.example.org"),
        ("r3---sn-x.example.org", "r3---sn-x.example.org"),
        ("intranet", "intranet"),
        ("1.2.3.4.example.org", "1.2.3.4.example.org"),
        ("0x7f.0x7g", "0x7f.0x7g"),
        ("a.b1", "a.b1"),
        ("x" * 63 + ".org", "x" * 63 + ".org"),
        (".".join(["x" * 49] * 5) + ".abc.", ".".join(["x" * 49] * 5) + ".abc"),
    ],
)
def test_a_name_has_one_form(written: str | bytes, form: str) -> None:
    assert canonical(written) == form


@pytest.mark.security
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        (".", "it is empty"),
        ("..", "it has an empty label (a dot too many)"),
        ("example.org..", "it has an empty label (a dot too many)"),
        ("example..org", "it has an empty label (a dot too many)"),
        (".example.org", "it has an empty label (a dot too many)"),
        ("-a.org", "it has a label with `-` at an end"),
        ("a-.org", "it has a label with `-` at an end"),
        ("x" * 64 + ".org", "it has a label of 64 characters; DNS takes 63"),
        (".".join(["x" * 49] * 5) + ".abcd", "it has 254 characters; DNS takes 253"),
        ("a\0.org", "it has `\\x00`: only letters"),
        ("a.org\n", "it has `\\n`: only letters"),
        ("a org", "it has ` `: only letters"),
        ("*.example.org", "it has `*`: only letters"),
        ("a%2eorg", "it has `%`: only letters"),
        ("example.org:443", "it has `:`: only letters"),
        ("[::1]", "it has `[`: only letters"),
        ("u@example.org", "it has `@`: only letters"),
        ("example\\.org", "it has `\\\\`: only letters"),
        ("ex\u0430mple.org", "it has U+0430 (CYRILLIC SMALL LETTER A), which is not ASCII: write the punycode form ("),
        ("\u212a.org", "it has U+212A (KELVIN SIGN), which is not ASCII: write the punycode form (`k.org`)"),
        ("a\u3002org", "it has U+3002 (IDEOGRAPHIC FULL STOP), which is not ASCII: write the punycode form (`a.org`)"),
        ("\udc80.org", "it has U+DC80 (without a name), which is not ASCII"),
        (b"\xd0\xb0.org", "it has the byte 0xd0, which is not ASCII"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(text: str | bytes, reason: str) -> None:
    assert refused(text).startswith(reason)


@pytest.mark.security
@pytest.mark.parametrize(
    "text",
    "127.0.0.1 127.1 0x7f.1 0X7F.1 2130706433 0177.0.0.1 127.0.0.1. 0 0x 1 a.0x a.1 a.b.0xdeadbeef 08.8.8.8 1.2.3.4.5 "
    "999999999999 example.123".split(),
)
def test_what_may_be_an_address_is_no_name(text: str) -> None:
    assert (
        refused(text) == refused(text.encode()) == "it ends in a number, so programs would take it for an IPv4 address"
    )


@pytest.mark.security
@given(address_like)
@example(("0177.0.0.1", "."))
@example(("1.2.3.4", " x"))
def test_nothing_that_inet_aton_takes_is_a_name(parts: tuple[str, str]) -> None:
    text = "".join(parts)
    try:
        socket.inet_aton(text)
    except OSError:
        assume(is_numeric_host(text.rstrip(".")))
    for form in (text, f"{text}.", text.upper()):
        refused(form)
        refused(form.encode())


@pytest.mark.security
@given(st.ip_addresses())
def test_no_spelling_of_an_address_is_a_name(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    for form in (str(ip), ip.exploded, ip.compressed, f"[{ip}]", str(int(ip)), hex(int(ip)), f"{ip}%lo", f"{ip}."):
        refused(form)


@pytest.mark.security
@given(name)
def test_no_name_is_an_address_to_the_c_library(text: str) -> None:
    form = canonical(text)
    assert not is_numeric_host(form)
    with pytest.raises(ValueError, match="does not appear to be"):
        ipaddress.ip_address(form)


@given(name)
def test_case_and_the_last_dot_make_no_other_name(text: str) -> None:
    form = canonical(text)
    assert form == canonical(form) == canonical(f"{text}.") == canonical(text.swapcase()) == canonical(text.encode())
    assert form.encode() == text.lower().encode("idna")  # the standard library's reading of an ASCII name


@pytest.mark.security
@given(st.one_of(st.text(max_size=80), st.binary(max_size=80), name.map(lambda text: f"{text}\u200b")))
@example("\u212a")
def test_any_text_has_its_form_or_is_refused(text: str | bytes) -> None:
    try:
        form = canonical(text)
    except BadName as bad:
        reason = str(bad)
    else:
        given_text = text.decode("ascii") if isinstance(text, bytes) else text
        assert given_text.isascii()
        assert given_text.lower() in {form, f"{form}."}
        assert len(form) <= names.MAX_NAME
        assert all(0 < len(part) <= names.MAX_LABEL for part in form.split("."))
        assert set(form) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
        return
    assert all(" " <= char <= "~" for char in reason)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("\uff45xample.org", "example.org"),
        ("ex\u200dam\u00adple\uff0eorg", "example.org"),
        ("\u4f8b\u3048\uff61jp", "xn--r8jz45g.jp"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("stra\u00dfe.example", "xn--strae-oqa.example"),  # as registered since IDNA 2008; not strasse
        ("\u2460\u2461\u2466.0.0.1", None),
        ("\u200b", None),
        ("\u0430 b.org", None),
    ],
)
def test_the_ascii_name_that_is_proposed(text: str, form: str | None) -> None:
    assert ascii_form(text) == form


@given(st.text(max_size=20))
def test_what_is_proposed_is_a_name(text: str) -> None:
    form = ascii_form(text)
    assert form is None or canonical(form) == form


@pytest.mark.parametrize(
    ("text", "false"),
    [
        ("xn--r8jz45g", False),
        ("example", False),
        ("xn--pple-43d", False),
        ("xn--a", True),  # what follows is no punycode
        ("xn--example-", True),  # stands for `example`
        ("xn--", True),
        ("xn--99999999", True),
    ],
)
def test_a_label_that_is_only_dressed_as_punycode(text: str, false: bool) -> None:
    assert is_false_a_label(text) is false


@given(label.map(str.lower))
def test_any_label_may_be_asked(text: str) -> None:
    assert not is_false_a_label(text) or text.startswith("xn--")
    is_false_a_label(f"xn--{text}")


@pytest.mark.security
@given(st.one_of(st.text(), st.binary()))
@example("\x1b]0;title\x07")
@example("\u202e" * 200)
def test_a_name_in_a_message_is_printable_and_short(text: str | bytes) -> None:
    shown = printable(text)
    assert shown.isascii()
    assert len(shown) <= 80
    assert all(" " <= char <= "~" for char in shown)
