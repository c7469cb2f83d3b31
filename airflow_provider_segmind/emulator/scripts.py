"""Scripts: the replies that a test wants, and the calls that get them."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

#: how the v2 result contains a language model's reply
OUTPUT_MODES = ("double", "plain", "dict", "missing", "invalid", "list")
_UNSET: Any = object()
_IN_PROCESS = ("predicate", "answer")


@dataclass(kw_only=True)
class Script:
    """One script: which calls it is for (``model``, ``match``, ``regex``, ``predicate``, ``times``) and their reply.

    None means the default. Times are emulated seconds, ``cost`` is in USD.
    """

    #: slug or shell pattern
    model: str | None = None
    #: substring of all text in the body
    match: str | None = None
    regex: str | None = None
    #: in-process only: ``predicate(model, inputs) -> bool``
    predicate: Callable[[str, dict[str, Any]], bool] | None = None
    #: how many requests it is used for; None: no limit
    times: int | None = None

    text: str | None = None
    #: in-process only: ``answer(model, inputs) -> str``
    answer: Callable[[str, dict[str, Any]], str] | None = None
    #: any JSON value; the text of the reply is its JSON
    json: Any = field(default=_UNSET)
    #: the model's whole native body
    body: dict[str, Any] | None = None
    #: merged over the v2 result body; a value of None is sent as null
    result: dict[str, Any] | None = None
    #: neutral (stop, length, safety, tool) or the provider's own word; by default the output cap decides stop or length
    finish_reason: str | None = None
    thoughts: str | list[str] | None = None
    list_content: bool = False
    tool_call: dict[str, Any] | None = None
    #: no candidates / choices / content at all
    empty: bool = False
    #: the prompt is blocked for this reason; the status is COMPLETED
    block: str | None = None
    output_mode: str | None = None
    #: any of input, output, thoughts, cached
    usage: dict[str, int] | None = None
    cost: float | None = None
    latency: Any = None
    queue_time: float | None = None
    polls: list[int] | None = None
    #: the request ends FAILED with this error
    fail: str | None = None
    #: files an image, video or audio model produces
    outputs: int = 1

    used: int = 0
    id: str = ""

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Script:
        """Check keyword arguments and build a script.

        :raises ValueError: names the invalid field.
        """
        known = {item.name for item in dataclasses.fields(cls)} - {"used", "id"}
        unknown = sorted(set(fields) - known)
        if unknown:
            raise ValueError(f"unknown script fields {unknown}; known: {sorted(known)}")
        try:
            re.compile(fields.get("regex") or "")
        except re.error as problem:
            raise ValueError(f"script regex={fields['regex']!r}: {problem}") from problem
        if fields.get("output_mode") not in (None, *OUTPUT_MODES):
            raise ValueError(f"script output_mode={fields['output_mode']!r} is not one of {list(OUTPUT_MODES)}")
        draw_latency(fields.get("latency") or 0.0, 0)
        return cls(**fields)

    @property
    def has_json(self) -> bool:
        """Whether ``json`` was given; it may be null."""
        return self.json is not _UNSET

    def fits(self, model: str, inputs: dict[str, Any], everything: str) -> bool:
        """Return whether this script is for a call."""
        if self.times is not None and self.used >= self.times:
            return False
        if self.model is not None and self.model != model and not fnmatchcase(model, self.model):
            return False
        if self.match is not None and self.match not in everything:
            return False
        if self.regex is not None and not re.search(self.regex, everything):
            return False
        return self.predicate is None or bool(self.predicate(model, inputs))

    def describe(self) -> dict[str, Any]:
        """Return the fields that are set, as JSON values."""
        shown = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {key: value for key, value in shown.items() if value not in (None, _UNSET) and key not in _IN_PROCESS}


NO_SCRIPT = Script()


class ScriptList:
    """The current scripts; the newest one that matches is used."""

    def __init__(self) -> None:
        self._scripts: list[Script] = []
        self._made = 0

    def add(self, fields: dict[str, Any]) -> str:
        """Add a script and return its id."""
        script = Script.parse(fields)
        self._made += 1
        script.id = f"script-{self._made}"
        self._scripts.insert(0, script)
        return script.id

    def remove(self, script_id: str | None) -> None:
        """Remove one script, or all."""
        self._scripts = [script for script in self._scripts if script_id is not None and script.id != script_id]

    def choose(self, model: str, inputs: dict[str, Any], everything: str) -> Script:
        """Return the script for a call and count its use."""
        for script in self._scripts:
            if script.fits(model, inputs, everything):
                script.used += 1
                return script
        return NO_SCRIPT

    def describe(self) -> list[dict[str, Any]]:
        """Return all scripts, the newest first."""
        return [script.describe() for script in self._scripts]


def draw_latency(plan: Any, number: int) -> float:
    """Return the latency of a request.

    :param plan: seconds; a list of seconds, repeated; or ``{"lognormal": {"median": s, "sigma": x, "seed": n}}``.
    :param number: the index of the request; the same index gives the same latency in every run.
    :raises ValueError: the plan is anything else.
    """
    if isinstance(plan, (int, float)) and not isinstance(plan, bool) and 0 <= plan < math.inf:
        return float(plan)
    if isinstance(plan, (list, tuple)) and plan:
        return float(plan[number % len(plan)])
    if isinstance(plan, dict) and set(plan) == {"lognormal"}:
        shape = plan["lognormal"]
        source = random.Random(f"{shape.get('seed', 0)}/{number}")
        return float(shape["median"]) * math.exp(float(shape["sigma"]) * source.gauss(0.0, 1.0))
    raise ValueError(f"latency {plan!r} is neither seconds, a list of seconds, nor a lognormal plan")
