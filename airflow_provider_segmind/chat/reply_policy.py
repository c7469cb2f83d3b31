"""
What to do with a reply, and what the requests for one answer have cost so far.

A reply is accepted, followed up by a further paid request (with a larger output cap, or with the invalid answer to be
repaired), or refused. In a chat task the record of each follow-up is kept under the id of the request before it, with
what had been spent and tried until then, so the last record is enough to continue.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from airflow_provider_segmind.chat.output_type import ParsedReply
from airflow_provider_segmind.chat.replies import ChatReply, FinishReason, TokenUsage, reply_outcome
from airflow_provider_segmind.exceptions import SegmindReplyError, SegmindStateError, shorten

DEFAULT_OUTPUT_CAP = 8_192
"""The output cap assumed, in tokens, when neither the request nor the usage shows one."""
LARGEST_OUTPUT_CAP = 65_536
"""Largest cap asked for, in tokens (the output limit of Gemini 3.1 Flash Lite)."""
QUOTED_ANSWER_CHARACTERS = 20_000
"""How much of an invalid answer is sent back to the model; more costs more than it helps."""
_GROWTH = 4
_CAP_KEYS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens")
_CAP_HOLDERS = ("generationConfig", "generation_config")
RefusalReason: TypeAlias = Literal["empty", "truncated", "blocked", "invalid"]


@dataclass(frozen=True, slots=True)
class Accept:
    """Take the reply: its text, or the validated data; of a row its answer columns by name."""

    result: Any


@dataclass(frozen=True, slots=True)
class FollowUp:
    """
    Submit a further request, which is paid as well.

    :param inputs: its body.
    :param follow_ups: what to pass to :func:`decide_reply` with its reply.
    :param reason: why the reply cannot be used, in words that quote nothing of it.
    """

    inputs: Mapping[str, Any]
    follow_ups: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Give up; ``detail`` says why, as part of a sentence."""

    reason: RefusalReason
    detail: str


Decision: TypeAlias = Accept | FollowUp | Refuse


def decide_reply(
    reply: ChatReply,
    parsed: ParsedReply | None,
    *,
    first: Callable[[], Mapping[str, Any]],
    sent: Callable[[], Mapping[str, Any]],
    follow_ups: tuple[int, ...],
    max_repairs: int,
) -> Decision:
    """
    Decide what to do with a reply: the one rule for a chat task and for a row of a table.

    ``max_repairs`` bounds all follow-ups together. At most one is the last request with a larger output cap, which the
    later ones keep; the others are the first request with the latest answer and what is wrong with it.

    :param parsed: its data, None when a string was asked for.
    :param first: returns the body of the first request; called only for a follow-up.
    :param sent: likewise the body of the request that was answered.
    :param follow_ups: for each follow-up so far its larger output cap in tokens, 0 where it had the first request's.
    :param max_repairs: how many follow-ups an answer may take.
    """
    found = reply_outcome(reply)
    allowed = len(follow_ups) < max_repairs
    unsaid = reply.finish_reason is FinishReason.UNKNOWN and parsed is not None and parsed.cut_short
    if found == "truncated" or (found == "success" and unsaid):
        if allowed and not any(follow_ups) and (larger := _larger(reply, sent(), follow_ups)) is not None:
            return larger
        return Refuse("truncated", f"the answer was cut off ({reply.native_finish_reason or 'no finish reason'})")
    if found == "blocked":
        return Refuse("blocked", f"the provider blocked it ({reply.block_reason or reply.native_finish_reason})")
    if found == "empty":
        return Refuse("empty", f"it contains no text (finish reason {reply.native_finish_reason})")
    if found == "invalid":
        return Refuse("invalid", f"the model stopped without an answer ({reply.native_finish_reason})")
    if parsed is None:
        return Accept(reply.text)
    if parsed.error is None:
        return Accept(parsed.data)
    if allowed and "messages" in (body := first()):
        return _repair(reply.text, parsed.error, body, follow_ups)
    return Refuse("invalid", f"it is not the data asked for: {parsed.error}")


def _larger(reply: ChatReply, body: Mapping[str, Any], follow_ups: tuple[int, ...]) -> FollowUp | None:
    cap = larger_cap(output_cap_of(body) or reply.usage.output_tokens)
    if cap is None:
        return None
    reason = f"was cut off; the output cap is raised to {cap} tokens"
    return FollowUp(enlarge_inputs(body, cap), (*follow_ups, cap), reason)


def _repair(answer: str, error: str, body: Mapping[str, Any], follow_ups: tuple[int, ...]) -> FollowUp:
    cap = max(follow_ups, default=0)
    repaired = repair_inputs(enlarge_inputs(body, cap) if cap else body, answer, error)
    return FollowUp(repaired, (*follow_ups, cap), "does not match the output_type")


def larger_cap(cap: int | None) -> int | None:
    """Return the next larger output cap in tokens, None when there is no room above ``cap``."""
    base = cap or DEFAULT_OUTPUT_CAP
    return min(base * _GROWTH, LARGEST_OUTPUT_CAP) if base < LARGEST_OUTPUT_CAP else None


def output_cap_of(inputs: Mapping[str, Any]) -> int | None:
    """Return the largest output cap a request carries, in tokens, None when it carries none."""
    caps = [holder[key] for holder in _cap_holders(inputs) for key in _CAP_KEYS if _is_cap(holder.get(key))]
    return max(caps, default=None)


def enlarge_inputs(inputs: Mapping[str, Any], cap: int) -> dict[str, Any]:
    """Return the request with room for ``cap`` tokens of output; the one given is not changed."""
    enlarged: dict[str, Any] = _with_cap(inputs, cap)
    messages = inputs.get("messages")
    for holder in _CAP_HOLDERS:
        if isinstance(inputs.get(holder), Mapping):
            enlarged[holder] = _with_cap(inputs[holder], cap)
        if isinstance(messages, Mapping) and isinstance(messages.get(holder), Mapping):
            enlarged["messages"] = {**enlarged["messages"], holder: _with_cap(messages[holder], cap)}
    if output_cap_of(inputs) is None:
        enlarged["max_tokens"] = cap
    return enlarged


def repair_prompt(error: str) -> str:
    """Write the message that asks the model to repair its answer."""
    return (
        "Your last answer is not valid JSON of the form that was asked for. The validator says:\n"
        f"{error}\n"
        "Answer again with the whole corrected JSON and nothing else."
    )


def repair_inputs(inputs: Mapping[str, Any], answer: str, error: str) -> dict[str, Any]:
    """
    Return the request with the invalid answer and the repair prompt as its last two messages; the one given is not
    changed.

    Works on the body, whichever family it is for, so that files are neither read nor encoded again.

    :param inputs: the body that was sent, as :func:`~.messages.build_chat_inputs` makes it.
    """
    added = (("assistant", shorten(answer, QUOTED_ANSWER_CHARACTERS)), ("user", repair_prompt(error)))
    messages = inputs["messages"]
    if isinstance(messages, Mapping):
        contents = [
            {"role": "model" if role == "assistant" else role, "parts": [{"text": text}]} for role, text in added
        ]
        return {**inputs, "messages": {**messages, "contents": [*messages["contents"], *contents]}}
    return {**inputs, "messages": [*messages, *({"role": role, "content": text} for role, text in added)]}


def follow_up_form(first: Mapping[str, Any], follow_ups: tuple[int, ...]) -> Mapping[str, Any] | None:
    """
    Return a body with the fields of the last follow-up, empty where it quotes an earlier answer; None if it has none.

    :param first: the body of the first request.
    :param follow_ups: as in :func:`decide_reply`, the one in question included.
    """
    *earlier, cap = follow_ups
    larger = cap > max(earlier, default=0)
    repaired = len(follow_ups) > larger
    if repaired and "messages" not in first:
        return None
    body = repair_inputs(first, "", "") if repaired else first
    return enlarge_inputs(body, cap) if cap else body


def reply_error(
    refusal: Refuse, reply: ChatReply, *, model: str, request_id: str | None = None, paid_requests: int = 1
) -> SegmindReplyError:
    """
    Make the error for a refusal.

    :param reply: the last reply; its first 200 characters are quoted.
    """
    times = "The request was billed" if paid_requests == 1 else f"{paid_requests} requests were billed"
    advice = {
        "empty": "change the prompt or the model",
        "truncated": "raise the output cap (max_tokens) or ask for less",
        "blocked": "sending the same request again cannot help: change the prompt or the files",
        "invalid": "change the prompt, the output type or the model, or allow more repairs",
    }[refusal.reason]
    began = f" The reply begins: {shorten(reply.text)!r}." if reply.text else ""
    request = f" to request {request_id!r}" if request_id else ""
    return SegmindReplyError(
        f"The reply of model {model!r}{request} cannot be used: {shorten(refusal.detail)}. {times}; {advice}.{began}",
        reason=refusal.reason,
        reply=reply.text,
        request_id=request_id,
    )


def _is_cap(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _with_cap(holder: Mapping[str, Any], cap: int) -> dict[str, Any]:
    return {key: cap if key in _CAP_KEYS and _is_cap(value) else value for key, value in holder.items()}


def _cap_holders(inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    messages = inputs.get("messages")
    places = [inputs, *([messages] if isinstance(messages, Mapping) else [])]
    yield inputs
    for place in places:
        for key in _CAP_HOLDERS:
            if isinstance(place.get(key), Mapping):
                yield place[key]


def part_after(request_id: str) -> str:
    """Return the part of the task state in which the record of the follow-up of a request is kept."""
    plain = re.fullmatch(r"[A-Za-z0-9_-]{1,100}", request_id)
    return f"after-{request_id if plain else hashlib.sha256(request_id.encode()).hexdigest()[:40]}"


@dataclass(frozen=True, slots=True)
class Spent:
    """
    What an answer has cost so far.

    :param requests: how many were paid for.
    :param follow_ups: as in :func:`decide_reply`, the one about to be sent included.
    :param cost: USD billed for all of them; None when Segmind did not report it for each.
    :param usage: tokens of all of them; None where a provider did not report it.
    """

    requests: int = 0
    follow_ups: tuple[int, ...] = ()
    cost: float | None = 0.0
    usage: Mapping[str, int | None] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | None) -> Spent:
        """
        Read it back from a submission record.

        :raises SegmindStateError: it is something else.
        """
        try:
            spent = cls(**(value or {}))
            return replace(spent, follow_ups=tuple(map(int, spent.follow_ups)))
        except (TypeError, ValueError) as error:
            raise SegmindStateError(
                "The record of what earlier requests for this answer cost was written by another version of this "
                "package. Nothing is submitted until it can be read."
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON, for a submission record."""
        return {**asdict(self), "follow_ups": list(self.follow_ups)}

    def plus(self, cost: float | None, usage: TokenUsage) -> Spent:
        """Add one more request."""
        tokens = usage.as_dict()
        if self.usage is not None:
            tokens = {name: _sum(self.usage.get(name), count) for name, count in tokens.items()}
        return replace(self, requests=self.requests + 1, cost=_sum(self.cost, cost), usage=tokens)


def _sum(one: Any, other: Any) -> Any:
    return None if one is None or other is None else one + other
