"""
Keeps API keys out of messages, in whatever form a server sends one back.

A gateway may quote the headers of a call: percent-encoded, as HTML entities, escaped for JSON, in base64, broken by
tags or line ends. Every key that a client is made with is remembered in the process, so that every error can be masked
where it is made, and so can the errors of libraries behind it, which a traceback prints as well.
"""

from __future__ import annotations

import base64
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from html.entities import html5
from typing import Any

MASK = "***"
SHORTEST = 8
"""Characters below which a secret is looked for only as it is: too much else would look like it."""
REMEMBERED = 64
"""Keys that a process remembers; the one that was used longest ago is forgotten first."""
_KEY_PATTERN = re.compile(r"SG_[A-Za-z0-9]+")
_CODE = (
    r"%(?:25)*([0-9a-f]{2})|&(?:amp;)*#(?:x0*([0-9a-f]{1,4})(?![0-9a-f])|0*([0-9]{1,5})(?![0-9]));?|&(?:amp;)*([a-z]{2,31});"
    r"|\\u([0-9a-f]{4})|\\u\{0*([0-9a-f]{1,4})\}|\\x([0-9a-f]{2})|\\([\"'/\\])"
)
_CODES = tuple(re.compile(pattern, re.IGNORECASE) for pattern in (_CODE, _CODE + "|=([0-9a-f]{2})"))
"""Characters as URLs, HTML, JSON and Python write them; mail as well, where an equals sign means something else."""
_SPACES = r"[\s\u00ad\u200b-\u200d\u2060\ufeff]|\\[nrtNRT]"
_BREAKS = tuple(re.compile(pattern) for pattern in (_SPACES + r"|<[^<>]{0,200}>", _SPACES))
"""What a page puts between two characters without changing what a reader sees; a key may hold the signs of a tag."""
_ENCODED = re.compile(r"[%&\\=<\s\u00ad\u200b-\u200d\u2060\ufeff]")
"""What every code and every break begins with."""
LONGEST = 40_000
"""Characters of an error that are searched; what is beyond them is cut off or not shown."""
_LAYERS = 4
"""How often something may be encoded over."""
_SMALL = str.maketrans({chr(code): chr(code + 32) for code in range(65, 91)})
_known: OrderedDict[str, None] = OrderedDict()


class MaskedError(Exception):
    """Stands in a traceback for an error whose own text cannot be masked."""


def remember(secret: str) -> None:
    """Mask a secret from now on in every error of this process."""
    if len(secret) >= SHORTEST:
        _known[secret] = None
        _known.move_to_end(secret)
        while len(_known) > REMEMBERED:
            _known.popitem(last=False)


def mask(text: str, secret: str) -> str:
    """Replace a secret in any form, and whatever looks like a key, with asterisks."""
    return _KEY_PATTERN.sub(MASK, _hidden(text, secret) if secret else text)


def mask_known(text: str) -> str:
    """Replace every secret that this process remembers."""
    for secret in tuple(_known):
        text = _hidden(text, secret)
    return _KEY_PATTERN.sub(MASK, text)


def masked(error: BaseException) -> BaseException:
    """Return an error with nothing secret in it, nor in the errors that its traceback prints before it."""
    clean = _without_secrets(error)
    # By what each stood for: an error can be its own cause, and one that had to be replaced would be replaced forever.
    # The errors are kept in it, so that no id is used again.
    shown = {id(error): (error, clean), id(clean): (clean, clean)}
    todo = [clean]
    while todo:
        found = todo.pop()
        hidden = found.__suppress_context__
        for name in ("__cause__", "__context__"):
            linked = getattr(found, name)
            if linked is None:
                continue
            if id(linked) not in shown:
                instead = _without_secrets(linked)
                shown[id(linked)] = (linked, instead)
                shown[id(instead)] = (instead, instead)
                todo.append(instead)
            setattr(found, name, shown[id(linked)][1])
        found.__suppress_context__ = hidden
    return clean


def forms(secret: str) -> list[str]:
    """Return the forms of a secret that a logger which knows only whole texts should mask as well."""
    from urllib.parse import quote

    if len(secret) < SHORTEST:
        return [secret]
    return list(dict.fromkeys([secret, quote(secret, safe=""), *_base64_of(secret)]))


def _without_secrets(error: BaseException) -> BaseException:
    notes = getattr(error, "__notes__", None)
    if notes:
        error.__notes__ = [mask_known(note) if isinstance(note, str) else note for note in notes]
    if any(_shortened(part) is not part for part in error.args):
        # A UnicodeDecodeError holds all of the body that cannot be decoded.
        error.args = tuple(_shortened(part) for part in error.args)
    if not _leaks(error):
        return error
    error.args = tuple(mask_known(part) if isinstance(part, str) else part for part in error.args)
    if not _leaks(error):
        return error
    text = mask_known(str(error)[:LONGEST])
    instead = MaskedError(f"{type(error).__name__}: {text}").with_traceback(error.__traceback__)
    instead.__cause__, instead.__context__ = error.__cause__, error.__context__
    instead.__suppress_context__ = error.__suppress_context__
    return instead


def _leaks(error: BaseException) -> bool:
    return any(len(text) > 2 * LONGEST or mask_known(text) != text for text in (str(error), repr(error)))


def _shortened(part: Any) -> Any:
    limit = LONGEST if isinstance(part, str) else LONGEST // 4
    return part[:limit] if isinstance(part, str | bytes) and len(part) > limit else part


def _hidden(text: str, secret: str) -> str:
    text = text.replace(secret, MASK)
    if len(secret) < SHORTEST:
        return text
    if not _ENCODED.search(text) and not _may_hold(text, secret):
        return text
    found: list[tuple[int, int]] = []
    for codes in _CODES:
        for breaks in _BREAKS:
            plain = _Plain.of(text, codes, breaks)
            for needle, exact in _needles(secret, codes, breaks):
                found += plain.places_of(needle, exact=exact)
    for start, end in _joined(found):
        text = text[:start] + MASK + text[end:]
    return text


def _may_hold(text: str, secret: str) -> bool:
    """Tell whether a text that is not encoded holds a secret; statuses and ids come by the thousand."""
    small = text.translate(_SMALL)
    needles = _needles(secret, _CODES[0], _BREAKS[0])
    return any(needle[: _least(needle)] in (text if exact else small) for needle, exact in needles)


def _least(needle: str) -> int:
    """Return how much of a secret gives it away."""
    return max(SHORTEST, (len(needle) + 1) // 2)


def _joined(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return places without overlaps, the last one first."""
    whole: list[tuple[int, int]] = []
    for start, end in sorted(places):
        if whole and start < whole[-1][1]:
            whole[-1] = whole[-1][0], max(end, whole[-1][1])
        else:
            whole.append((start, end))
    return whole[::-1]


@dataclass(frozen=True, slots=True)
class _Plain:
    """A text decoded, and for each character where it stands in the text that was given."""

    text: str
    places: list[tuple[int, int]]

    @classmethod
    def of(cls, text: str, codes: re.Pattern[str], breaks: re.Pattern[str]) -> _Plain:
        plain = cls(text, [(at, at + 1) for at in range(len(text))])
        for _ in range(_LAYERS):
            decoded = plain.replaced(codes, _decoded)
            if decoded.text == plain.text:
                break
            plain = decoded
        return plain.replaced(breaks, lambda _: "")

    def replaced(self, pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str]) -> _Plain:
        parts: list[str] = []
        places: list[tuple[int, int]] = []
        done = 0
        for match in pattern.finditer(self.text):
            start, end = match.span()
            parts.append(self.text[done:start])
            places += self.places[done:start]
            done = end
            if one := replacement(match):
                parts.append(one)
                whole = (self.places[start][0], self.places[end - 1][1])
                places += [whole] if len(one) == 1 else self.places[start:end]
        return _Plain("".join([*parts, self.text[done:]]), places + self.places[done:])

    def places_of(self, needle: str, *, exact: bool) -> Iterator[tuple[int, int]]:
        """Yield where a needle stands, or the first half of one that was cut off."""
        text = self.text if exact else self.text.translate(_SMALL)
        least = _least(needle)
        at = text.find(needle[:least])
        while at >= 0:
            end = at + least
            while end - at < len(needle) and end < len(text) and text[end] == needle[end - at]:
                end += 1
            yield self.places[at][0], self.places[end - 1][1]
            at = text.find(needle[:least], end)


def _decoded(match: re.Match[str]) -> str:
    """Return the one character that a code means, or the code itself."""
    *numbers, sign = match.groups()[:8]
    name = numbers.pop(3)
    if sign:
        return sign
    if name:
        return _NAMED.get(f"{name.lower()};", match[0])
    ten = numbers.pop(2)
    sixteen = next((number for number in (*numbers, *match.groups()[8:]) if number), "0")
    code = int(ten) if ten else int(sixteen, 16)
    return chr(code) if 0 < code < 0x10000 else match[0]


_NAMED = {name.lower(): meant for name, meant in html5.items() if len(meant) == 1 and name.endswith(";")}


@lru_cache(maxsize=4 * REMEMBERED)
def _needles(secret: str, codes: re.Pattern[str], breaks: re.Pattern[str]) -> tuple[tuple[str, bool], ...]:
    """Return what to look for in a decoded text, and whether in just this case."""
    plain = _Plain.of(secret, codes, breaks).text.translate(_SMALL)
    content = secret.encode()
    needles = [(plain, False), (content.hex(), False), (content.hex(":"), False)]
    for packed in _base64_of(secret):
        needles += [(packed, True), (packed.replace("+", "-").replace("/", "_"), True)]
    return tuple((needle, exact) for needle, exact in dict.fromkeys(needles) if len(needle) >= SHORTEST)


def _base64_of(secret: str) -> list[str]:
    """Return what base64 makes of a secret, wherever in a text it stands, without what its neighbours change."""
    content = secret.encode()
    found = []
    for before in range(3):
        packed = base64.b64encode(b"\0" * before + content).decode()
        found.append(packed[(before * 8 + 5) // 6 : (before + len(content)) * 8 // 6])
    return found
