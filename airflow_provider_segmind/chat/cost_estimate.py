"""
Estimates of what a request will cost: a range in USD, or nothing if the price is unknown.

The actual cost is in Segmind's response (``metrics.cost``). Estimates use the model vendors' list prices: those of the
package ``genai-prices`` where it is installed (extra ``[prices]``), else the table below, with the date of each entry.
Segmind publishes no prices per token, and its own may differ, so every price can be replaced (``prices=``, or
``prices`` in a connection's extra). An estimate says which price it used.

Tokens are counted by a rule of thumb: one for every four bytes of UTF-8 text (about four characters of English, one and
a third of Chinese), and a fixed number per image. The tokens of documents, audio and video depend on pages and seconds;
they are not counted, and the number of such attachments is reported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from airflow_provider_segmind.chat.model_families import ApiFormat, known_family
from airflow_provider_segmind.chat.reply_policy import LARGEST_OUTPUT_CAP, output_cap_of
from airflow_provider_segmind.chat.request_size import billed_parts
from airflow_provider_segmind.exceptions import SegmindConfigError, type_name
from airflow_provider_segmind.money import format_usd, format_usd_range

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 1_120
"""Tokens of one image at Gemini 3's default resolution (Google's media resolution guide)."""
MESSAGE_TOKENS = 16
"""Tokens allowed for what a provider adds to each message: roles and separators."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """
    Prices of one model.

    :param input: USD per million input tokens.
    :param output: USD per million output tokens, thinking included.
    :param max_output_tokens: the output limit of the model, None if unknown.
    :param average_request: USD for an average request according to the vendor's catalogue, None if unknown.
    :param request: USD for each request, whatever is in it; then the prices of tokens do not count.
    :param as_of: the date of these prices, None for a user's own.
    :param source: where these prices were published.
    """

    input: float
    output: float
    max_output_tokens: int | None = None
    average_request: float | None = None
    request: float | None = None
    as_of: date | None = None
    source: str = ""


PRICES: Mapping[str, Price] = {
    "gemini-3.1-flash-lite": Price(
        input=0.25,
        output=1.50,
        max_output_tokens=65_536,
        average_request=0.00105109,
        as_of=date(2026, 11, 22),
        source="Google's list price; the average request is Segmind's model directory of August 2026",
    )
}


def price_of(model: str, prices: Mapping[str, Price] | None = None) -> Price | None:
    """
    Return the price of a model, None if it is unknown.

    :param prices: a user's own prices, which override all others.
    """
    return (prices or {}).get(model) or _published_price(model) or PRICES.get(model)


@cache
def _published_price(model: str) -> Price | None:
    """
    Return the price that the installed ``genai-prices`` has for a model, without a call over the network.

    The highest, where it depends on the number of tokens. Limits and averages, which the package does not know, are
    those of our own table.
    """
    try:
        from genai_prices import data_snapshot
    except ImportError:
        return None
    try:
        _, found = data_snapshot.get_snapshot().find_provider_model(model, None, None, None)
    except LookupError:
        return None
    listed = found.get_prices(datetime.now(UTC))
    paid, answered = _highest(listed.input_mtok), _highest(listed.output_mtok)
    if paid is None or answered is None:
        return None
    own = PRICES.get(model)
    return Price(
        input=paid,
        output=answered,
        max_output_tokens=own.max_output_tokens if own else None,
        average_request=own.average_request if own else None,
        source=f"genai-prices {version('genai-prices')}",
    )


def _highest(price: Any) -> float | None:
    """Return USD per million tokens; in the most expensive tier, where there are tiers."""
    if price is None:
        return None
    return float(max([price.base, *(tier.price for tier in price.tiers)]) if hasattr(price, "tiers") else price)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTokens:
    """
    The estimated input tokens of a request.

    :param tokens: for its text and images.
    :param uncounted_attachments: documents, audio, video and URLs of unknown type, whose tokens are not included.
    """

    tokens: int
    uncounted_attachments: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostBound:
    """
    The most that a request may cost.

    :param usd: USD; if not ``certain``, only the most that its input text may cost, 0 if the price is unknown, together
        with the output of ``assumed_cap``.
    :param certain: whether the request cannot cost more, provided that the price is right.
    :param assumed_cap: tokens of output it may have if the request itself has no output cap: the model's limit, and if
        that is unknown, as many as any answer is ever asked to have.
    :param output: USD of ``usd`` that the output of ``assumed_cap`` may cost.
    :param ceiling: USD that it cannot exceed although it is not ``certain``, None if there is no such bound.
    :param doubt: why it is not certain, although the price is known: the field whose cost is not.
    """

    usd: float
    certain: bool
    assumed_cap: int | None = None
    output: float = 0.0
    ceiling: float | None = None
    doubt: str = ""

    def without_output(self) -> CostBound:
        """
        Return the cost of the input alone, for callers to which an answer of ``assumed_cap`` tokens is too pessimistic.
        """
        return CostBound(usd=self.usd - self.output, certain=False, ceiling=self.usd)


UNBOUNDED = CostBound(usd=0.0, certain=False)
"""The bound for a request with an unknown price."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """
    The estimated cost of a request.

    :param low: USD without any output.
    :param high: USD with all the output allowed; None if there is no limit.
    """

    low: float
    high: float | None
    input_tokens: int
    price: Price


def estimate_cost(
    model: str, *, input_tokens: int, output_cap: int | None = None, prices: Mapping[str, Price] | None = None
) -> CostEstimate | None:
    """
    Estimate the cost of one request; None, not zero, if the price is unknown.

    :param input_tokens: see :func:`estimate_input_tokens`.
    :param output_cap: the output limit of the request in tokens; None for the limit of the model.
    :param prices: a user's own prices, see :func:`price_of`.
    """
    price = price_of(model, prices)
    if price is None:
        return None
    if price.request is not None:
        return CostEstimate(low=price.request, high=price.request, input_tokens=input_tokens, price=price)
    low = input_tokens * price.input / 1_000_000
    limits = [limit for limit in (output_cap, price.max_output_tokens) if limit is not None]
    high = low + min(limits) * price.output / 1_000_000 if limits else None
    return CostEstimate(low=low, high=high, input_tokens=input_tokens, price=price)


def cost_bound(model: str, inputs: Mapping[str, Any], *, prices: Mapping[str, Price] | None = None) -> CostBound:
    """
    Return the most that a request may cost.

    A tokenizer makes at most one token of each byte of UTF-8, names, numbers and schemas included, and a message adds a
    few; thinking counts towards the output cap. The bound is certain if the price and an output cap are known (that of
    the request, or else the limit of the model), and the request contains nothing that may be billed in another way; or
    if each request has the same price.
    """
    price = price_of(model, prices)
    if price is None:
        return UNBOUNDED
    if price.request is not None:
        return CostBound(usd=price.request, certain=True)
    tokens, doubt = MESSAGE_TOKENS, ""
    for part in billed_parts(inputs):
        tokens += part.size
        if part.kind == "message":
            tokens += MESSAGE_TOKENS
        elif part.kind == "image":
            tokens += IMAGE_TOKENS
        counted = part.kind != "image" or known_family(model) is ApiFormat.GEMINI
        if part.kind in ("attachment", "doubt") or not counted:
            doubt = doubt or part.field
    usd = tokens * price.input / 1_000_000
    cap = output_cap_of(inputs)
    if doubt:
        return CostBound(usd=usd, certain=False, doubt=doubt)
    caps = [limit for limit in (cap, price.max_output_tokens) if limit]
    most = min(caps, default=LARGEST_OUTPUT_CAP)
    output = most * price.output / 1_000_000
    if cap is not None:
        return CostBound(usd=usd + output, certain=True)
    return CostBound(usd=usd + output, certain=bool(caps), assumed_cap=most, output=output)


def estimate_input_tokens(inputs: Mapping[str, Any]) -> InputTokens:
    """Estimate the input tokens of a request from its body, in any API format."""
    text_bytes = images = uncounted = 0
    for part in billed_parts(inputs):
        text_bytes += part.size if part.kind == "text" else 0
        images += part.kind == "image"
        uncounted += part.kind == "attachment"
    if "response_format" in inputs:
        text_bytes += _schema_bytes(inputs)
    return InputTokens(
        tokens=math.ceil(text_bytes / BYTES_PER_TOKEN) + images * IMAGE_TOKENS, uncounted_attachments=uncounted
    )


def _schema_bytes(inputs: Mapping[str, Any]) -> int:
    """Return the bytes of the schema of the answer, whose names are read by the model as well."""
    text = json.dumps(inputs["response_format"], ensure_ascii=False, default=str)
    return len(text.encode("utf-8", "replace"))


def estimate_request(
    model: str, inputs: Mapping[str, Any], *, prices: Mapping[str, Price] | None, balance: float | None
) -> dict[str, Any]:
    """
    Return, as plain data, what a request may cost and whether the balance covers it.

    :param balance: USD on the account, None if unknown.
    """
    read = estimate_input_tokens(inputs)
    cost = estimate_cost(model, input_tokens=read.tokens, output_cap=output_cap_of(inputs), prices=prices)
    most = None if cost is None else cost.low if cost.high is None else cost.high
    covered = None if most is None or balance is None else balance >= most
    summary = f"A request to {model!r} has about {read.tokens} input tokens"
    if read.uncounted_attachments:
        summary += f", without those of {read.uncounted_attachments} attachments that cannot be counted"
    costs = "" if cost is None else format_usd_range(cost.low, cost.high)
    summary += "; its price is unknown" if cost is None else f"; it costs {costs} (price: {_described(cost.price)})"
    if covered:
        summary += f", which the balance of {format_usd(balance)} covers"
    warning = None
    if cost is None:
        warning = f"The price of {model!r} is unknown: add it to the field 'prices' of the connection's extra."
    elif covered is False:
        warning = f"The balance of {format_usd(balance)} does not cover what a request to {model!r} may cost ({costs})."
    return {
        "model": model,
        "input_tokens": read.tokens,
        "uncounted_attachments": read.uncounted_attachments,
        "low": None if cost is None else cost.low,
        "high": None if cost is None else cost.high,
        "price": None if cost is None else _price_data(cost.price),
        "balance": balance,
        "covered": covered,
        "summary": f"{summary}. Nothing was submitted.",
        "warning": warning,
    }


def _described(price: Price) -> str:
    return f"{price.source}, {price.as_of.isoformat()}" if price.as_of else price.source or "your own price"


def _price_data(price: Price) -> dict[str, Any]:
    as_of = price.as_of.isoformat() if price.as_of else None
    figures = {"input": price.input, "output": price.output} if price.request is None else {"request": price.request}
    return {**figures, "as_of": as_of, "source": price.source}


def read_prices(given: object) -> dict[str, Price]:
    """
    Read a user's own prices from a connection's extra.

    :param given: ``{"my-model": {"input": 0.1, "output": 0.4}}``, USD per million tokens; or
        ``{"my-model": {"request": 0.05}}``, USD for each request, whatever is in it; or a string of that JSON.
    :raises SegmindConfigError: names the invalid entry.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise SegmindConfigError("prices is a string that is not JSON: it must map models to prices.") from error
    if not isinstance(given, Mapping):
        raise SegmindConfigError(f"prices is {type_name(given)}: it must map models to prices.")
    return {str(model): _read_price(entry, f"prices.{model}") for model, entry in given.items()}


def _read_price(entry: object, field: str) -> Price:
    if not isinstance(entry, Mapping):
        raise SegmindConfigError(f"{field} is {type_name(entry)}: it must contain input and output, or request.")
    # A price of cached tokens is in most price lists. What a cache contains is unknown before a request is sent.
    known = {"input", "output", "cached_input", "max_output_tokens", "request"}
    for key in sorted(map(str, entry.keys() - known)):
        raise SegmindConfigError(
            f"{field}.{key} is unknown: use input, output, cached_input and max_output_tokens, or request."
        )
    for key, value in entry.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < 1e12:
            raise SegmindConfigError(f"{field}.{key} is {value!r}: it must be a number, 0 or greater.")
    if "request" in entry:
        if len(entry) > 1:
            raise SegmindConfigError(
                f"{field} has both request and token prices: give either USD for each request, or input and output."
            )
        return Price(input=0.0, output=0.0, request=float(entry["request"]), source="your own price")
    for key in ("input", "output"):
        if key not in entry:
            raise SegmindConfigError(
                f"{field}.{key} is missing: give USD per million tokens, or request, USD for each request."
            )
    cap = entry.get("max_output_tokens")
    return Price(
        input=float(entry["input"]),
        output=float(entry["output"]),
        max_output_tokens=int(cap) if cap is not None else None,
        source="your own price",
    )
