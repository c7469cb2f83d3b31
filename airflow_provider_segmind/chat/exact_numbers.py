"""
Numbers of a reply with every digit that the model wrote.

pydantic reads a JSON number as a float before it converts it to a Decimal, and its unions with int or float take a
Python float as one of these. So a reply whose numbers a float would round is also validated in other forms, and its
data takes the digits of those forms wherever they differ from the JSON form in nothing else.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

_LARGEST_EXACT_FLOAT = 2**53


class ExactFloat(float):
    """A float that keeps the digits it was written with; ``str`` returns them."""

    __slots__ = ("_digits",)
    _digits: str

    @classmethod
    def parse(cls, digits: str) -> float:
        """
        Read a number, as a plain float if that keeps every digit.

        :raises ValueError: it is too large for a double.
        """
        number = float(digits)
        if number in (float("inf"), float("-inf")):
            raise ValueError("a number is too large")
        if repr(number) == digits:
            return number
        exact = cls(number)
        exact._digits = digits
        return exact

    def __str__(self) -> str:
        return self._digits


def contains_exact_floats(value: Any) -> bool:
    """Return whether a value contains :class:`ExactFloat` anywhere."""
    if isinstance(value, dict):
        return any(map(contains_exact_floats, value.values()))
    return any(map(contains_exact_floats, value)) if isinstance(value, list) else isinstance(value, ExactFloat)


def contains_rounded(value: Any) -> bool:
    """Return whether a value contains a number that a float would not write with the same value."""
    if isinstance(value, dict):
        return any(map(contains_rounded, value.values()))
    return any(map(contains_rounded, value)) if isinstance(value, list) else _is_rounded(value)


def _is_rounded(value: Any) -> bool:
    if type(value) is int and abs(value) <= _LARGEST_EXACT_FLOAT:
        return False
    if type(value) is not int and not isinstance(value, ExactFloat):
        return False
    try:
        # As a float is written, which is the shortest number that it is nearest to.
        return Decimal(str(value)) != Decimal(repr(float(value)))
    except OverflowError:
        return False


def with_exact_digits(data: Any, exact: Any, same: Any) -> Any:
    """Return the exact data wherever the two validations differ in nothing but digits."""
    if _same_number(data, same):
        return exact
    objects = all(isinstance(one, dict) for one in (data, exact, same))
    if objects and data.keys() == exact.keys() == same.keys():
        return {key: with_exact_digits(item, exact[key], same[key]) for key, item in data.items()}
    lists = all(isinstance(one, list) for one in (data, exact, same))
    if lists and len(data) == len(exact) == len(same):
        return list(map(with_exact_digits, data, exact, same))
    return data


def _same_number(data: Any, same: Any) -> bool:
    if data == same:
        return True
    try:
        # Python and pydantic write the same float differently: exponents, last digits.
        return isinstance(data, str) and isinstance(same, str) and float(data) == float(same)
    except ValueError:
        return False


class MarkedDecimal(Decimal):
    """
    A Decimal that shows which fields are of that type: pydantic makes a plain one of it for them.

    A field that takes anything keeps it, and dumps it as an empty string. Its JSON numbers stay floats.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return ""


def with_decimals(value: Any, kind: type[Decimal]) -> Any:
    """Return a value with a Decimal in place of each number that a float would not write with the same value."""
    if isinstance(value, dict):
        return {key: with_decimals(item, kind) for key, item in value.items()}
    if isinstance(value, list):
        return [with_decimals(item, kind) for item in value]
    return kind(str(value)) if _is_rounded(value) else value


def with_written(data: Any, written: Any, marked: Any) -> Any:
    """Return the data with each number replaced by the decimal in the other value that it is a rounding of."""
    objects = all(isinstance(one, dict) for one in (data, written, marked))
    if objects and data.keys() == written.keys() == marked.keys():
        return {key: with_written(item, written[key], marked[key]) for key, item in data.items()}
    lists = all(isinstance(one, list) for one in (data, written, marked))
    if lists and len(data) == len(written) == len(marked):
        return list(map(with_written, data, written, marked))
    if (
        marked == ""
        or not isinstance(written, str)
        or isinstance(data, bool)
        or not isinstance(data, (str, int, float))
    ):
        return data
    try:
        rounded = float(data) == float(written) and Decimal(str(data)) != Decimal(written)
    except (ValueError, ArithmeticError):
        return data
    return written if rounded else data
