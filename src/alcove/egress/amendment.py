"""An allow-list with entries added and others taken out."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from alcove.contract import InvalidRequest
from alcove.egress import entries as grammar
from alcove.egress.addresses import IPNetwork
from alcove.egress.entries import NameEntry
from alcove.egress.names import printable
from alcove.egress.policy import Policy

_MOST_SHOWN = 8


def amended(entries: Sequence[str], allow: Iterable[str], deny: Iterable[str], fake: IPNetwork) -> tuple[str, ...]:
    """Return `entries` without those in `deny`, then those in `allow` that are not there; spellings of one are one.

    Raises:
        InvalidRequest: an entry cannot be, or one in `deny` is not there, so that what it means would stay allowed.
    """
    parsed = {grammar.parse(text, fake): text for text in reversed(entries)}
    left = {meaning: parsed[meaning] for meaning in reversed(parsed)}
    for text in deny:
        meaning = grammar.parse(text, fake)
        if meaning not in parsed:
            raise InvalidRequest(
                f"`{printable(text)}` is not on the allow-list{_instead(text, meaning, entries, fake)}"
            )
        left.pop(meaning, None)
    for text in allow:
        left.setdefault(grammar.parse(text, fake), text)
    return tuple(left.values())


def _instead(text: str, meaning: object, entries: Sequence[str], fake: IPNetwork) -> str:
    if not entries:
        return ", which is empty"
    if isinstance(meaning, NameEntry) and not meaning.below:
        rule = Policy.parse(entries, fake=fake).rule(meaning.name, meaning.port or grammar.WEB_PORTS[-1])
        if rule:
            return f": `{rule.entry}` allows it"
    if close := get_close_matches(text, entries, n=1):
        return f": did you mean `{close[0]}`?"
    return f", which has: {', '.join(entries[:_MOST_SHOWN])}{' …' if len(entries) > _MOST_SHOWN else ''}"
