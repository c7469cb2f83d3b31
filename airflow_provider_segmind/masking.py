"""
Removes API keys from messages, in whatever form a server echoes them.

A gateway may quote the headers of a call: percent-encoded, as HTML entities, escaped for JSON, in base64, interrupted
by markup or line breaks. The process remembers the key of every client, so that every error can be masked when it is
raised, together with the library errors behind it, which a traceback prints as well.
"""

from __future__ import annotations

import base64
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache, lru_cache
from typing import Any, NamedTuple, cast

MASK = "***"
SHORTEST = 8
"""Length below which a secret is searched for only verbatim: its encoded forms would match too much else."""
REMEMBERED_SECRETS = 64
"""Keys that a process remembers; the least recently used one is dropped first."""
_KEY_PATTERN = re.compile(r"SG_[A-Za-z0-9]+")
_CODE = (
    r"%(?:25)*([0-9a-f]{2})|&(?:amp;)*#(?:x0*([0-9a-f]{1,4})(?![0-9a-f])|0*([0-9]{1,5})(?![0-9]));?|&(?:amp;)*([a-z]{2,31});"
    r"|\\u([0-9a-f]{4})|\\u\{0*([0-9a-f]{1,4})\}|\\x([0-9a-f]{2})|\\([\"'/\\])"
)
_SPACES = r"[\s\u00ad\u200b-\u200d\u2060\ufeff]|\\[nrtNRT]"
LONGEST = 40_000
"""Characters of an error that are searched; the rest is cut off."""
_MARKUP_WORK = 10
"""
How much of a text is read in search of tags, as a multiple of its length; after that, tags are read in a simpler way.
"""
_LAYERS = 4
"""How many times a text may be encoded."""
_LOWER_CASE = str.maketrans({chr(code): chr(code + 32) for code in range(65, 91)})
_known: OrderedDict[str, None] = OrderedDict()


# Patterns are compiled on first use: every DAG parse imports this module, and hardly one has something to mask.
@cache
def _codes() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return escapes of URLs, HTML, JSON and Python; the second pattern also has those of mail (quoted-printable)."""
    return re.compile(_CODE, re.IGNORECASE), re.compile(_CODE + "|=([0-9a-f]{2})", re.IGNORECASE)


@cache
def _spaces() -> re.Pattern[str]:
    """Return what may stand between two characters without being visible, apart from markup."""
    return re.compile(_SPACES)


@cache
def _comment_end() -> re.Pattern[str]:
    return re.compile(r"--!?>|\]\]>")


@cache
def _markup_patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Return a tag up to its end, which its attributes may contain; a tag read simply; an element that is not shown."""
    return (
        re.compile(r"""<(?:[^<>=]++|=\s*+(?:"[^"]*+"|'[^']*+')|=)*+"""),
        re.compile(r"<[^<>]*+>"),
        re.compile(r"<(style|script|template|noscript|noframes)\b", re.IGNORECASE),
    )


class _Reading(Enum):
    """Which parts of a text count as markup. A key may be in any of them, and contain their characters."""

    SHOWN = "tags, comments, and elements whose content is not shown"
    TAGS = "tags, and the marks of comments"
    SIMPLE_TAGS = "all that is in angle brackets"
    NONE = "nothing"


def without_markup(text: str) -> str:
    """
    Return the visible text of a page, a space in place of each tag. The work grows with the length of the text only.
    """
    parts: list[str] = []
    done = 0
    for start, end in _markup(text, hidden=True):
        parts.append(text[done:start])
        done = end
    return " ".join([*parts, text[done:]])


def _markup(text: str, *, hidden: bool) -> Iterator[tuple[int, int]]:
    """
    Yield the spans of markup.

    :param hidden: whether comments, and elements whose content is not shown, are markup as a whole.
    """
    tag, simple, element = _markup_patterns()
    left, at = _MARKUP_WORK * len(text) + LONGEST, 0
    absent: set[str] = set()

    def end_of(closing: str, start: int) -> int:
        """Return where a text that closes something ends, 0 if there is none; each is missed once only."""
        if closing in absent:
            return 0
        found = re.compile(closing, re.IGNORECASE).search(text, start)
        if found is None:
            absent.add(closing)
            return 0
        return found.end()

    while (start := text.find("<", at)) >= 0:
        end = 0
        if text.startswith("<!--", start):
            end = end_of("-->", start + 2) if hidden else start + 4
        elif text.startswith("<![CDATA[", start):
            end = start + 9
        if not end and left > 0:
            stop = cast("re.Match[str]", tag.match(text, start)).end()
            left -= stop - start
            end = stop + 1 if text[stop : stop + 1] == ">" else 0
        if not end and (plain := simple.match(text, start)) is not None:
            end = plain.end()
        if end and hidden and (opened := element.match(text, start)) is not None:
            end = end_of(rf"</{opened[1].lower()}\s*>", end) or end
        if end:
            yield start, end
        at = end or start + 1


@cache
def _encoded() -> re.Pattern[str]:
    """Return the first character of every escape and every break."""
    return re.compile(r"[%&\\=<\s\u00ad\u200b-\u200d\u2060\ufeff]")


@cache
def _named() -> dict[str, str]:
    """Return the characters of HTML's names, which begin with & and end with a semicolon."""
    from html.entities import html5

    return {name.lower(): meant for name, meant in html5.items() if len(meant) == 1 and name.endswith(";")}


class MaskedError(Exception):
    """Replaces an error in a traceback when its own text cannot be masked."""


def remember(secret: str) -> None:
    """Mask a secret in every error of this process from now on."""
    if len(secret) >= SHORTEST:
        _known[secret] = None
        _known.move_to_end(secret)
        while len(_known) > REMEMBERED_SECRETS:
            _known.popitem(last=False)


def mask(text: str, secret: str) -> str:
    """
    Replace a secret in any form, and anything that resembles a key, with asterisks.

    A text of more than :data:`LONGEST` characters is cut.
    """
    text = text[:LONGEST]
    return _KEY_PATTERN.sub(MASK, _hidden(text, secret) if secret else text)


def mask_known(text: str) -> str:
    """Replace every secret that this process remembers."""
    for secret in tuple(_known):
        text = _hidden(text, secret)
    return _KEY_PATTERN.sub(MASK, text)


def masked(error: BaseException) -> BaseException:
    """Return an error without secrets, its causes and contexts included."""
    clean = _without_secrets(error)
    # By the id of the original: an error can be its own cause, and a replaced one would be replaced endlessly. The
    # errors are kept as well, so that no id is reused.
    seen = {id(error): (error, clean), id(clean): (clean, clean)}
    todo = [clean]
    while todo:
        found = todo.pop()
        suppressed = found.__suppress_context__
        for name in ("__cause__", "__context__"):
            linked = getattr(found, name)
            if linked is None:
                continue
            if id(linked) not in seen:
                replacement = _without_secrets(linked)
                seen[id(linked)] = (linked, replacement)
                seen[id(replacement)] = (replacement, replacement)
                todo.append(replacement)
            setattr(found, name, seen[id(linked)][1])
        found.__suppress_context__ = suppressed
    return clean


def forms(secret: str) -> list[str]:
    """Return the forms of a secret to register with a logger that masks only exact strings."""
    from urllib.parse import quote

    if len(secret) < SHORTEST:
        return [secret]
    return list(dict.fromkeys([secret, quote(secret, safe=""), *_base64_of(secret)]))


def _without_secrets(error: BaseException) -> BaseException:
    notes = getattr(error, "__notes__", None)
    if notes:
        error.__notes__ = [mask_known(note) if isinstance(note, str) else note for note in notes]
    if any(_shortened(part) is not part for part in error.args):
        # A UnicodeDecodeError contains the whole body that cannot be decoded.
        error.args = tuple(_shortened(part) for part in error.args)
    if not _leaks(error):
        return error
    error.args = tuple(mask_known(part) if isinstance(part, str) else part for part in error.args)
    if not _leaks(error):
        return error
    text = mask_known(str(error)[:LONGEST])
    replacement = MaskedError(f"{type(error).__name__}: {text}").with_traceback(error.__traceback__)
    replacement.__cause__, replacement.__context__ = error.__cause__, error.__context__
    replacement.__suppress_context__ = error.__suppress_context__
    return replacement


def _leaks(error: BaseException) -> bool:
    return any(len(text) > 2 * LONGEST or mask_known(text) != text for text in (str(error), repr(error)))


def _shortened(part: Any) -> Any:
    limit = LONGEST if isinstance(part, str) else LONGEST // 4
    return part[:limit] if isinstance(part, str | bytes) and len(part) > limit else part


def _hidden(text: str, secret: str) -> str:
    text = text.replace(secret, MASK)
    if min(len(secret), len(text)) < SHORTEST:
        return text
    if not _encoded().search(text) and not _may_contain(text, secret):
        return text
    found: list[tuple[int, int]] = []
    for codes in _codes():
        decoded = _Decoded.of(text, codes)
        searched: set[str] = set()
        for reading in _Reading:
            plain = decoded.without_breaks(reading)
            if plain.text in searched:
                continue
            searched.add(plain.text)
            for needle, exact in _needles(secret, codes, reading):
                found += plain.find(needle, exact=exact)
    for start, end in _merged(found):
        text = text[:start] + MASK + text[end:]
    return text


def _may_contain(text: str, secret: str) -> bool:
    """Return whether an unescaped text may contain a secret: a quick check for the many short ones."""
    lower = text.translate(_LOWER_CASE)
    return any(start in (text if exact else lower) for start, exact in _starts(secret))


def _least(needle: str) -> int:
    """Return how many characters of a secret must be masked even where the rest is cut off."""
    return max(SHORTEST, (len(needle) + 1) // 2)


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    whole: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if whole and start < whole[-1][1]:
            whole[-1] = whole[-1][0], max(end, whole[-1][1])
        else:
            whole.append((start, end))
    return whole[::-1]


class _Decoded(NamedTuple):
    """A decoded text, and the span of each character in the original."""

    text: str
    spans: list[tuple[int, int]]

    @classmethod
    def of(cls, text: str, codes: re.Pattern[str]) -> _Decoded:
        plain = cls(text, [(at, at + 1) for at in range(len(text))])
        for _ in range(_LAYERS):
            decoded = plain.replaced(codes, _decoded)
            if decoded.text == plain.text:
                break
            plain = decoded
        return plain

    def without_breaks(self, reading: _Reading) -> _Decoded:
        """Return the text without spaces, and without what is taken for markup."""
        plain = self
        if reading is not _Reading.NONE and "<" in self.text:
            if reading is _Reading.SIMPLE_TAGS:
                plain = self.replaced(_markup_patterns()[1], lambda _: "")
            else:
                plain = self._without(_markup(self.text, hidden=reading is _Reading.SHOWN))
            # A comment whose marks are removed leaves its end.
            plain = plain.replaced(_comment_end(), lambda _: "") if reading is _Reading.TAGS else plain
        return plain.replaced(_spaces(), lambda _: "")

    def _without(self, cuts: Iterator[tuple[int, int]]) -> _Decoded:
        parts: list[str] = []
        spans: list[tuple[int, int]] = []
        done = 0
        for start, end in cuts:
            parts.append(self.text[done:start])
            spans += self.spans[done:start]
            done = end
        return _Decoded("".join([*parts, self.text[done:]]), spans + self.spans[done:])

    def replaced(self, pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str]) -> _Decoded:
        parts: list[str] = []
        spans: list[tuple[int, int]] = []
        done = 0
        for match in pattern.finditer(self.text):
            start, end = match.span()
            parts.append(self.text[done:start])
            spans += self.spans[done:start]
            done = end
            if one := replacement(match):
                parts.append(one)
                whole = (self.spans[start][0], self.spans[end - 1][1])
                spans += [whole] if len(one) == 1 else self.spans[start:end]
        return _Decoded("".join([*parts, self.text[done:]]), spans + self.spans[done:])

    def find(self, needle: str, *, exact: bool) -> Iterator[tuple[int, int]]:
        """Yield the spans of a needle, even where only its first half is left."""
        text = self.text if exact else self.text.translate(_LOWER_CASE)
        least = _least(needle)
        at = text.find(needle[:least])
        while at >= 0:
            end = at + least
            while end - at < len(needle) and end < len(text) and text[end] == needle[end - at]:
                end += 1
            yield self.spans[at][0], self.spans[end - 1][1]
            at = text.find(needle[:least], end)


def _decoded(match: re.Match[str]) -> str:
    """Return the character of an escape, or the escape itself."""
    *numbers, sign = match.groups()[:8]
    name = numbers.pop(3)
    if sign:
        return sign
    if name:
        return _named().get(f"{name.lower()};", match[0])
    ten = numbers.pop(2)
    sixteen = next((number for number in (*numbers, *match.groups()[8:]) if number), "0")
    code = int(ten) if ten else int(sixteen, 16)
    return chr(code) if 0 < code < 0x10000 else match[0]


@lru_cache(maxsize=8 * REMEMBERED_SECRETS)
def _needles(secret: str, codes: re.Pattern[str], reading: _Reading) -> tuple[tuple[str, bool], ...]:
    """Return the strings to search for in a decoded text, each with whether its case must match."""
    plain = _Decoded.of(secret, codes).without_breaks(reading).text.translate(_LOWER_CASE)
    content = secret.encode()
    needles = [(plain, False), (content.hex(), False), (content.hex(":"), False)]
    for packed in _base64_of(secret):
        needles += [(packed, True), (packed.replace("+", "-").replace("/", "_"), True)]
    return tuple((needle, exact) for needle, exact in dict.fromkeys(needles) if len(needle) >= SHORTEST)


@lru_cache(maxsize=REMEMBERED_SECRETS)
def _starts(secret: str) -> tuple[tuple[str, bool], ...]:
    """Return the parts of the needles that must be masked, each with whether its case must match."""
    return tuple((needle[: _least(needle)], exact) for needle, exact in _needles(secret, _codes()[0], _Reading.SHOWN))


def _base64_of(secret: str) -> list[str]:
    """Return the base64 forms of a secret at each offset, without the characters that depend on its neighbours."""
    content = secret.encode()
    found = []
    for before in range(3):
        packed = base64.b64encode(b"\0" * before + content).decode()
        found.append(packed[(before * 8 + 5) // 6 : (before + len(content)) * 8 // 6])
    return found
