"""Names of tables and columns, quoted so that nothing in them can run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from airflow_provider_segmind.exceptions import SegmindConfigError

_PART = re.compile(r'"((?:[^"\x00]|"")+)"|([\w$\-]+)')


@dataclass(frozen=True, slots=True)
class TableName:
    """
    The name of a table.

    :param parts: database, schema and table, as many as were given, without quotes.
    """

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, field: str) -> Self:
        """
        Read ``schema.table``; a part with other characters than letters, digits, ``_``, ``$`` and ``-`` stands in
        double quotes.

        Upper and lower case are kept as they are, because the name is quoted in every statement.

        :param field: what the message calls it.
        :raises SegmindConfigError: it is no name.
        """
        parts: list[str] = []
        place = 0
        while match := _PART.match(text, place):
            parts.append(match[1].replace('""', '"') if match[1] is not None else match[2])
            place = match.end()
            if place == len(text):
                return cls(tuple(parts))
            if text[place] != ".":
                break
            place += 1
        raise SegmindConfigError(
            f"{field!r} is {text!r}, which is no name of a table: write table or schema.table, and a part with other "
            'characters than letters, digits, "_", "$" and "-" in double quotes.'
        )

    def __str__(self) -> str:
        return ".".join(self.parts)

    def beside(self, ending: str) -> Self:
        """Return the name of a table in the same place whose name ends differently."""
        return type(self)((*self.parts[:-1], self.parts[-1] + ending))


def quoted(name: str, mark: str) -> str:
    """
    Quote one identifier.

    :param mark: the database's quotation mark.
    :raises SegmindConfigError: no database takes it.
    """
    if not name or "\x00" in name:
        raise SegmindConfigError(f"{name!r} cannot be the name of a column.")
    if mark == "`":
        return f"`{name.replace(chr(92), chr(92) * 2).replace('`', chr(92) + '`')}`"
    return mark + name.replace(mark, mark * 2) + mark
