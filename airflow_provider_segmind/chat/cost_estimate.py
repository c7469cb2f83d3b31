"""
What a request may cost, before it is paid: a range in USD, or nothing where nobody knows the price.

What a request did cost is Segmind's to say (``metrics.cost``). This table is for looking ahead. Its prices are the list
prices of the models' makers on the date they carry: Segmind publishes no prices per token, and its own may differ, so
every entry can be replaced (``prices=``, or ``prices`` in a connection's extra).

Tokens are counted by a rule of thumb: one for every four bytes of UTF-8 text (about four characters of English, one and
a third of Chinese), and a fixed number for a picture. Documents, audio and video depend on pages and seconds that
nobody has counted; they are left out of the count and named in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from airflow_provider_segmind.chat.model_families import ApiFormat, known_family
from airflow_provider_segmind.chat.reply_policy import output_cap_of
from airflow_provider_segmind.exceptions import SegmindConfigError

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 1_120
"""Tokens of one picture at Gemini 3's default resolution (Google's media resolution guide)."""
MESSAGE_TOKENS = 16
"""Tokens that are allowed for what a provider puts around a text: roles and separators."""
_MULTIPLIERS = frozenset(
    {
        *("n", "best_of", "candidateCount", "candidate_count", "tools", "web_search", "cachedContent"),
        *("mediaResolution", "media_resolution"),
    }
)
"""Fields of a body that let a request cost something else than its text and its output cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """
    Prices of one model.

    :param input: USD for a million tokens read.
    :param output: USD for a million tokens written, thinking included.
    :param cached_input: USD for a million tokens read from a cache, None when unknown.
    :param max_output_tokens: what the model can write at most, None when unknown.
    :param average_request: USD of an average request as the vendor's catalogue tells it, None when unknown.
    :param as_of: when these prices were looked up, None for a user's own.
    :param source: where.
    """

    input: float
    output: float
    cached_input: float | None = None
    max_output_tokens: int | None = None
    average_request: float | None = None
    as_of: date | None = None
    source: str = ""


PRICES: Mapping[str, Price] = {
    "gemini-3.1-flash-lite": Price(
        input=0.25,
        output=1.50,
        cached_input=0.025,
        max_output_tokens=65_536,
        average_request=0.00105109,
        as_of=date(2026, 11, 22),
        source="Google's list price; the average request is Segmind's model directory of August 2026",
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTokens:
    """
    Tokens a request will be read as, estimated.

    :param tokens: of its texts and pictures.
    :param uncounted_files: documents, audio, video and addresses of unknown kind, which come on top.
    """

    tokens: int
    uncounted_files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostBound:
    """
    What a request may cost at most.

    :param usd: USD; without ``certain`` only what reading its text costs at most, 0 where nobody knows the price.
    :param certain: whether the request cannot cost more, given that the price is right.
    """

    usd: float
    certain: bool


UNBOUNDED = CostBound(usd=0.0, certain=False)
"""What is known of a request whose price nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEstimate:
    """
    What a request may cost.

    :param low: USD when nothing is written.
    :param high: USD when all the output allowed is written; None when nothing limits it.
    :param input_tokens: the count it stands on.
    :param price: the prices it stands on.
    """

    low: float
    high: float | None
    input_tokens: int
    price: Price


def estimate_cost(
    model: str,
    *,
    input_tokens: int,
    output_cap: int | None = None,
    prices: Mapping[str, Price] | None = None,
) -> CostEstimate | None:
    """
    Estimate the cost of one request; None for a model without a known price, never zero.

    :param model: the model to run (Segmind calls it the slug).
    :param input_tokens: see :func:`estimate_input_tokens`.
    :param output_cap: tokens the request may write at most; the model's own limit when None.
    :param prices: a user's own prices; they win over :data:`PRICES`.
    """
    price = (prices or {}).get(model) or PRICES.get(model)
    if price is None:
        return None
    low = input_tokens * price.input / 1_000_000
    limits = [limit for limit in (output_cap, price.max_output_tokens) if limit is not None]
    high = low + min(limits) * price.output / 1_000_000 if limits else None
    return CostEstimate(low=low, high=high, input_tokens=input_tokens, price=price)


def cost_bound(model: str, inputs: Mapping[str, Any], *, prices: Mapping[str, Price] | None = None) -> CostBound:
    """
    Return what a request may cost at most.

    A tokenizer makes at most one token of a byte of UTF-8, and a message adds a few around its text; thinking counts
    towards the output cap. The bound is certain when the price is known, the request carries an output cap of its own
    (the model's is so large that it would bound nothing), and it holds nothing that is billed in another way.

    :param inputs: the body, as :func:`.chat.build_chat_inputs` makes it.
    """
    price = (prices or {}).get(model) or PRICES.get(model)
    if price is None:
        return UNBOUNDED
    weighed = list(_weighed(inputs))
    texts = sum(size + MESSAGE_TOKENS for kind, size in weighed if kind == "text")
    images = sum(kind == "image" for kind, _ in weighed)
    usd = (MESSAGE_TOKENS + texts + images * IMAGE_TOKENS) * price.input / 1_000_000
    cap = output_cap_of(inputs)
    countable = not any(kind == "other" for kind, _ in weighed)
    if images and known_family(model) is not ApiFormat.GEMINI:
        countable = False
    if cap is None or not countable or _is_billed_otherwise(inputs):
        return CostBound(usd=usd, certain=False)
    cap = cap if price.max_output_tokens is None else min(cap, price.max_output_tokens)
    return CostBound(usd=usd + cap * price.output / 1_000_000, certain=True)


def _is_billed_otherwise(inputs: Mapping[str, Any]) -> bool:
    """Tell whether a body asks for more than one answer, for tools, or for files that its text only names."""
    if "messages" not in inputs and "prompt" not in inputs:
        return True
    named = any(
        isinstance(value, str) and value.startswith(("data:", "http://", "https://"))
        for key, value in inputs.items()
        if key not in ("prompt", "system", "instruction")
    )
    holders = [inputs, *(value for value in inputs.values() if isinstance(value, Mapping))]
    holders += [value for holder in holders[1:] for value in holder.values() if isinstance(value, Mapping)]
    asked = [holder[key] for holder in holders for key in _MULTIPLIERS if holder.get(key)]
    return named or any(value is True or value != 1 for value in asked)


def estimate_input_tokens(inputs: Mapping[str, Any]) -> InputTokens:
    """
    Estimate what a request will be read as, from its body of any family.

    :param inputs: the body, as :func:`.chat.build_chat_inputs` makes it.
    """
    text_bytes = images = uncounted = 0
    for kind, size in _weighed({key: value for key, value in inputs.items() if key != "response_format"}):
        text_bytes += size if kind == "text" else 0
        images += kind == "image"
        uncounted += kind == "other"
    if "response_format" in inputs:
        text_bytes += len(json.dumps(inputs["response_format"], ensure_ascii=False, default=str).encode())
    return InputTokens(
        tokens=math.ceil(text_bytes / BYTES_PER_TOKEN) + images * IMAGE_TOKENS, uncounted_files=uncounted
    )


def foresee(
    model: str, inputs: Mapping[str, Any], *, prices: Mapping[str, Price] | None, balance: float | None
) -> dict[str, Any]:
    """
    Say what a request may cost and whether the balance covers it, as plain data.

    :param inputs: the body, as :func:`.chat.build_chat_inputs` makes it.
    :param prices: a user's own prices.
    :param balance: USD on the account, None when unknown.
    """
    read = estimate_input_tokens(inputs)
    cost = estimate_cost(model, input_tokens=read.tokens, output_cap=output_cap_of(inputs), prices=prices)
    most = None if cost is None else cost.low if cost.high is None else cost.high
    covered = None if most is None or balance is None else balance >= most
    told = f"A request to {model!r} reads about {read.tokens} tokens"
    if read.uncounted_files:
        told += f" and {read.uncounted_files} files that cannot be counted"
    told += "; its price is not known" if cost is None else f" and costs {_range(cost)}"
    warning = None
    if cost is None:
        warning = f"Nobody told the price of {model!r}: add it to the field 'prices' of the connection's extra."
    elif covered is False:
        warning = (
            f"The balance of {balance:.6f} USD does not cover what a request to {model!r} may cost ({_range(cost)})."
        )
    return {
        "model": model,
        "input_tokens": read.tokens,
        "uncounted_files": read.uncounted_files,
        "low": None if cost is None else cost.low,
        "high": None if cost is None else cost.high,
        "price": None if cost is None else _told(cost.price),
        "balance": balance,
        "covered": covered,
        "summary": f"{told}. Nothing was submitted.",
        "warning": warning,
    }


def _range(cost: CostEstimate) -> str:
    return f"at least {cost.low:.6f} USD" if cost.high is None else f"{cost.low:.6f} to {cost.high:.6f} USD"


def _told(price: Price) -> dict[str, Any]:
    as_of = price.as_of.isoformat() if price.as_of else None
    return {"input": price.input, "output": price.output, "as_of": as_of, "source": price.source}


def read_prices(given: object, field: str = "prices") -> dict[str, Price]:
    """
    Read a user's own prices, as a connection's extra holds them.

    :param given: ``{"my-model": {"input": 0.1, "output": 0.4}}``, USD for a million tokens; or the text of it.
    :param field: what to call it in a message.
    :raises SegmindConfigError: names the entry that cannot work.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise SegmindConfigError(f"{field} is a text that is no JSON: it must map models to prices.") from error
    if not isinstance(given, Mapping):
        raise SegmindConfigError(f"{field} is a {type(given).__name__}: it must map models to prices.")
    return {str(model): _read_price(entry, f"{field}.{model}") for model, entry in given.items()}


def _read_price(entry: object, field: str) -> Price:
    if not isinstance(entry, Mapping):
        raise SegmindConfigError(f"{field} is a {type(entry).__name__}: it must hold input and output.")
    for key in entry.keys() - {"input", "output", "cached_input", "max_output_tokens"}:
        raise SegmindConfigError(f"{field}.{key} is unknown: input, output, cached_input and max_output_tokens are.")
    for key in ("input", "output"):
        if key not in entry:
            raise SegmindConfigError(f"{field}.{key} is missing: USD for a million tokens.")
    for key, value in entry.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < 1e12:
            raise SegmindConfigError(f"{field}.{key} is {value!r}: it must be a number of at least 0.")
    cap = entry.get("max_output_tokens")
    return Price(
        input=float(entry["input"]),
        output=float(entry["output"]),
        cached_input=float(entry["cached_input"]) if "cached_input" in entry else None,
        max_output_tokens=int(cap) if cap is not None else None,
        source="your own price",
    )


def _weighed(node: Any) -> Iterator[tuple[str, int]]:
    """Yield each text with its size, and each file by kind, of a body of any family."""
    if isinstance(node, Mapping):
        media_type = node.get("mimeType") or node.get("mime_type") or node.get("media_type")
        if node.get("type") in ("document", "file", "input_audio", "video_url"):
            yield "other", 0
        elif isinstance(media_type, str):
            yield _kind(media_type), 0
        elif node.get("type") == "url" or "image_url" in node:
            yield "image", 0
        else:
            for key, value in node.items():
                if key not in ("role", "type"):
                    yield from _weighed(value)
    elif isinstance(node, list | tuple):
        for item in node:
            yield from _weighed(item)
    elif isinstance(node, str):
        yield "text", len(node.encode("utf-8", "replace"))


def _kind(media_type: str) -> str:
    return "image" if media_type.startswith("image/") else "other"
