"""The one canonicaliser of host names: for the policy, DNS questions, TLS's SNI and HTTP's Host alike.

Two spellings that any part of the way could take for one name, or one that some part could take for an address, are
how a check is passed with one host and the connection made to another. So there is one form, and the rest is refused.
"""

import re
import unicodedata

#: The host's loopback, by the name that its entry and the guest use alike.
HOST_LOOPBACK = "host.alcove"
#: The longest name in the textual form of DNS, without the last dot (RFC 1035, 2.3.4).
MAX_NAME = 253
#: The longest label.
MAX_LABEL = 63

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_FOREIGN = re.compile(r"[^a-z0-9_.-]")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_SHOWN = 80
# IDNA reads this as a dot (RFC 3490, 3.1); of the other three, NFKC makes one of these two
_IDEOGRAPHIC_DOT = "\u3002"


class BadName(ValueError):  # noqa: N818
    """Not a host name that anything here works with: the reason, without the name."""


def canonical(name: str | bytes) -> str:
    """Return the one form of a host name: lower case, without the last dot.

    Letters, digits, `-` and `_` in labels (LDH of RFC 5890, and the underscore of RFC 8552), Unicode only as A-labels;
    nothing that inet_aton(3) or the URL standard's host parser takes as an IPv4 address: no number at the end.

    Raises:
        BadName: it is not of that form.
    """
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    if text.isascii():  # before lower(): the Kelvin sign becomes a k
        lowered = text.lower().removesuffix(".")
        if len(lowered) <= MAX_NAME and _NAME.fullmatch(lowered) and not ends_in_number(lowered):
            return lowered
    raise BadName(f"it {_reason(text, foreign_bytes=isinstance(name, bytes))}")


def ends_in_number(name: str) -> bool:
    """Tell whether the last label would make an address of the whole, as inet_aton(3) and browsers read it."""
    return _NUMBER.fullmatch(name.lower().removesuffix(".").rpartition(".")[2]) is not None


def _reason(text: str, *, foreign_bytes: bool) -> str:
    if not text.isascii():
        return _not_ascii(text, foreign_bytes=foreign_bytes)
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if not name:
        return "is empty"
    if found := _FOREIGN.search(name):
        return f"has `{printable(found[0])}`: only letters, digits, `-`, `_` and dots may stand in a name"
    if "" in labels:
        return "has an empty label (a dot too many)"
    if len(name) > MAX_NAME:
        return f"has {len(name)} characters; DNS takes {MAX_NAME}"
    if longest := next((label for label in labels if len(label) > MAX_LABEL), None):
        return f"has a label of {len(longest)} characters; DNS takes {MAX_LABEL}"
    if any(label.startswith("-") or label.endswith("-") for label in labels):
        return "has a label with `-` at an end"
    return "ends in a number, so programs would take it for an IPv4 address"


def _not_ascii(text: str, *, foreign_bytes: bool) -> str:
    first = next(char for char in text if not char.isascii())
    if foreign_bytes:
        return f"has the byte 0x{ord(first):02x}, which is not ASCII"
    return f"has {described(first)}, which is not ASCII: write the punycode form (`{ascii_form(text) or 'xn--...'}`)"


def ascii_form(text: str) -> str | None:
    """Return the ASCII name that a Unicode one may stand for, to propose it: never to be used unasked.

    Letters of another width or style and invisible characters fold away; what is left becomes punycode (RFC 3492).
    """
    if len(text) > 2 * MAX_NAME:  # punycode takes quadratic time
        return None
    visible = "".join(char for char in text if unicodedata.category(char)[0] != "C")
    folded = unicodedata.normalize("NFKC", visible).replace(_IDEOGRAPHIC_DOT, ".").lower()
    labels = [label if label.isascii() else "xn--" + label.encode("punycode").decode() for label in folded.split(".")]
    form = ".".join(labels).removesuffix(".")
    return form if _NAME.fullmatch(form) and len(form) <= MAX_NAME and not ends_in_number(form) else None


def described(char: str) -> str:
    """Return what a character is, for a reader who cannot tell it from its look."""
    return f"U+{ord(char):04X} ({unicodedata.name(char, 'without a name')})"


def is_false_a_label(label: str) -> bool:
    """Tell whether `label` begins as punycode does and stands for nothing that needs it."""
    if not label.startswith("xn--"):
        return False
    try:
        decoded = label[4:].encode().decode("punycode")
    except (ValueError, OverflowError):
        return True
    unseen = any(unicodedata.category(char) in {"Cc", "Co", "Cs"} for char in decoded)
    return unseen or decoded.isascii() or decoded.encode("punycode").decode() != label[4:]


def printable(text: str | bytes) -> str:
    """Return `text` for a message: printable ASCII alone, escaped where it is not, and never long."""
    characters = text.decode("latin-1") if isinstance(text, bytes) else text
    cut = characters[: _SHOWN + 1].encode("unicode_escape").decode()
    return cut if len(cut) <= _SHOWN else f"{cut[: _SHOWN - 3]}..."
