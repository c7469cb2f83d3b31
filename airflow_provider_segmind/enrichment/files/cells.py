"""
The form of a value in each file format.

An answer that was paid for can always be written: a value that a format cannot represent is written in the form
defined here, and is read back in that form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_segmind.enrichment.rows import json_value, plain_text

MOST_LEVELS = 100
"""How deep lists and objects may nest in JSONL; many readers stop at some hundreds of levels."""
# The module csv does not quote a lone carriage return before Python 3.11.9 and 3.12.3, and then splits the row there.
# Characters that only some readers treat as a line end, or trim, are quoted as well.
_QUOTED = re.compile('[",\r\n\x0b\x0c\x1c-\x1e\x85\u2028\u2029]|\\A\\s|\\s\\Z')


def unicode_text(text: str) -> str:
    """Join surrogate pairs, and replace a lone half of one, which UTF-8 cannot encode, by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def text_cell(value: Any) -> str:
    """Return a value as a string, for CSV and for the text columns of Parquet; lists and objects are JSON."""
    nested = isinstance(value, (Mapping, list, tuple))
    return unicode_text(_flat_json(value) if nested and _is_deep(value) else plain_text(value))


def json_cell(value: Any) -> Any:
    """Return a value as it is written to JSONL: itself, or its JSON as a string where it nests too deeply."""
    nested = isinstance(value, (Mapping, list, tuple))
    return _flat_json(value) if nested and _is_deep(value) else json_value(value)


def csv_line(values: list[str]) -> str:
    """Return a line of CSV that every reader of quoted fields parses in the same way."""
    if values == [""]:
        return '""\n'
    return (
        ",".join(f'"{value.replace(chr(34), chr(34) * 2)}"' if _QUOTED.search(value) else value for value in values)
        + "\n"
    )


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, (Mapping, list, tuple))]
        if not level:
            return False
    return True


def _inside(value: Any) -> Iterator[Any]:
    return iter(value.values() if isinstance(value, Mapping) else value)


def _flat_json(value: Any) -> str:
    """Write JSON without recursion, with names sorted."""
    parts: list[str] = []
    left: list[tuple[str, Any]] = [("value", value)]
    while left:
        kind, item = left.pop()
        if kind == "text":
            parts.append(item)
        elif isinstance(item, Mapping):
            left.append(("text", "}"))
            pairs = sorted(((str(name), inner) for name, inner in item.items()), key=lambda pair: pair[0])
            for number, (name, inner) in reversed(list(enumerate(pairs))):
                left.append(("value", inner))
                left.append(("text", f"{',' if number else ''}{json.dumps(name, ensure_ascii=False)}:"))
            left.append(("text", "{"))
        elif isinstance(item, (list, tuple)):
            left.append(("text", "]"))
            for number, inner in reversed(list(enumerate(item))):
                left.append(("value", inner))
                left.append(("text", "," if number else ""))
            left.append(("text", "["))
        else:
            parts.append(json.dumps(json_value(item), ensure_ascii=False))
    return "".join(parts)
