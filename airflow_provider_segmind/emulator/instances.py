"""A small value that satisfies a JSON Schema, the same one every time."""

from __future__ import annotations

import re
from typing import Any

_FORMATS = {
    "date": "2026-01-02",
    "date-time": "2026-01-02T03:04:05Z",
    "time": "03:04:05Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
    "hostname": "example.com",
}
_PATTERN_GUESSES = (
    "a",
    "A",
    "0",
    "1",
    "aa",
    "AA",
    "00",
    "abc",
    "ABC",
    "123",
    "1234",
    "12345",
    "A1",
    "a-b",
    "AB-123",
    "2026-01-02",
)


def instance(schema: Any, *, text: str = "text") -> Any:
    """Return a value for ``schema``: first enum value, first branch of anyOf, smallest numbers, all properties.

    :param schema: a JSON Schema; ``$ref`` is resolved inside it.
    :param text: what a free string is filled with, so that an answer can be matched to its question.
    """
    return _Maker(schema if isinstance(schema, dict) else {}, text).make(schema, 0)


class _Maker:
    """One schema document and the text for its strings."""

    def __init__(self, root: dict[str, Any], text: str) -> None:
        self.root = root
        self.text = text

    def make(self, schema: Any, depth: int) -> Any:
        """Build a value for one subschema."""
        if not isinstance(schema, dict):
            return self.text
        if "$ref" in schema:
            return self.make(
                {**self._resolve(str(schema["$ref"])), **{k: v for k, v in schema.items() if k != "$ref"}}, depth + 1
            )
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        for word in ("anyOf", "oneOf"):
            if schema.get(word):
                return self.make(self._branch(schema, word, depth), depth + 1)
        if schema.get("allOf"):
            return self.make(self._merged(schema), depth + 1)
        return self._by_type(schema, depth)

    def _by_type(self, schema: dict[str, Any], depth: int) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((name for name in kind if name != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind in ("integer", "number"):
            return _number(schema, whole=kind == "integer")
        if kind == "boolean":
            return True
        return None if kind == "null" else self._string(schema)

    def _resolve(self, ref: str) -> dict[str, Any]:
        found: Any = self.root
        for step in ref.lstrip("#").strip("/").split("/") if ref != "#" else []:
            name = step.replace("~1", "/").replace("~0", "~")
            found = found.get(name, {}) if isinstance(found, dict) else {}
        return found if isinstance(found, dict) else {}

    def _branch(self, schema: dict[str, Any], word: str, depth: int) -> dict[str, Any]:
        branches = [branch for branch in schema[word] if isinstance(branch, dict)]
        # a recursive type ends in its null branch; elsewhere the first branch is the answer
        chosen = (
            next((branch for branch in branches if branch.get("type") == "null"), branches[0])
            if depth > 6
            else branches[0]
        )
        return {**{key: value for key, value in schema.items() if key != word}, **chosen}

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            whole = self._resolve(str(part["$ref"])) if "$ref" in part else part
            properties = {**merged.get("properties", {}), **whole.get("properties", {})}
            required = [*merged.get("required", []), *whole.get("required", [])]
            merged = {**merged, **whole, "properties": properties, "required": required}
            if not properties:
                del merged["properties"]
        return merged

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = schema.get("required") or []
        # past some depth only what is required: optional recursion would never end
        names = [name for name in properties if depth <= 6 or name in required]
        built = {name: self.make(properties[name], depth + 1) for name in names}
        return built | {name: self.text for name in required if name not in built}

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first = schema.get("prefixItems") or []
        built = [self.make(item, depth + 1) for item in first]
        least = int(schema.get("minItems", 0))
        wanted = max(least, 0 if depth > 6 or schema.get("maxItems") == 0 else 1)
        while len(built) < wanted:
            value = self.make(schema.get("items", {}), depth + 1)
            if schema.get("uniqueItems") and value in built:
                value = _another(value, len(built), schema.get("items", {}))
            built.append(value)
        return built

    def _string(self, schema: dict[str, Any]) -> str:
        if schema.get("format") in _FORMATS:
            return _FORMATS[schema["format"]]
        least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
        pattern = schema.get("pattern")
        if pattern:
            guesses = (self.text, *_PATTERN_GUESSES)
            fitting = (
                guess for guess in guesses if re.search(pattern, guess) and least <= len(guess) <= (most or len(guess))
            )
            return next(fitting, self.text)
        text = self.text.ljust(least, ".")
        return text if most is None else text[: int(most)]


def _number(schema: dict[str, Any], *, whole: bool) -> int | float:
    low: float = schema.get("minimum", 0)
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"] + (1 if whole else 0.5)
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if high is not None and low >= high and "minimum" not in schema:
        low = high - (1 if "exclusiveMaximum" in schema else 0)
    step = schema.get("multipleOf")
    if step:
        low = -(-low // step) * step
    return int(-(-low // 1)) if whole else low


def _another(value: Any, number: int, schema: Any) -> Any:
    if isinstance(schema, dict) and len(schema.get("enum") or []) > number:
        return schema["enum"][number]
    if isinstance(value, str):
        return f"{value}{number}"
    return value + number if isinstance(value, (int, float)) else value
