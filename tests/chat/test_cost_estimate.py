"""The estimated cost of a request: a range, or nothing if the price is unknown; never zero for unknown."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.chat import cost_estimate
from airflow_provider_segmind.chat.attachments import Attachment
from airflow_provider_segmind.chat.cost_estimate import (
    IMAGE_TOKENS,
    PRICES,
    CostBound,
    InputTokens,
    Price,
    cost_bound,
    estimate_cost,
    estimate_input_tokens,
    estimate_request,
    price_of,
    read_prices,
)
from airflow_provider_segmind.chat.messages import build_chat_inputs
from airflow_provider_segmind.chat.reply_policy import LARGEST_OUTPUT_CAP
from airflow_provider_segmind.exceptions import SegmindConfigError
from tests.support.httpx2 import with_httpx2

GEMINI, GPT, CLAUDE = "gemini-3.1-flash-lite", "gpt-5.4-mini", "claude-4.5-sonnet"


def test_the_range_is_from_no_output_to_all_output_allowed():
    found = estimate_cost(GEMINI, input_tokens=1_000_000, output_cap=1000)

    assert found is not None
    assert (found.low, found.high) == (pytest.approx(0.25), pytest.approx(0.2515))


def test_without_a_cap_the_limit_of_the_model_applies():
    found = estimate_cost(GEMINI, input_tokens=0)

    assert found is not None
    assert found.high == pytest.approx(65_536 * 1.5e-6)


def test_without_any_limit_there_is_no_upper_end():
    found = estimate_cost("mine", input_tokens=4, prices={"mine": Price(input=1, output=1)})

    assert found is not None
    assert (found.low, found.high) == (pytest.approx(4e-6), None)


def test_a_model_with_an_unknown_price_has_no_estimate():
    assert estimate_cost("no-such-model", input_tokens=5) is None


def test_own_prices_override_the_table():
    found = estimate_cost(
        GEMINI, input_tokens=1_000_000, output_cap=0, prices=read_prices({GEMINI: {"input": 2, "output": 3}})
    )

    assert found is not None
    assert found.low == pytest.approx(2)


def test_every_price_has_a_date_and_a_source():
    assert all(price.as_of and price.source for price in PRICES.values())
    assert PRICES[GEMINI].cached_input == 0.025
    assert PRICES[GEMINI].average_request == 0.00105109


@pytest.mark.parametrize("model", [GEMINI, GPT, CLAUDE])
def test_images_count_as_images_and_not_as_their_base64(model):
    big = Attachment(media_type="image/png", data=b"0" * 1_000_000)
    linked = Attachment.from_url("https://files.test/a.png")

    found = estimate_input_tokens(build_chat_inputs(model=model, prompt="x" * 400, attachments=[big, linked]))

    assert found == InputTokens(tokens=100 + 2 * IMAGE_TOKENS)


@pytest.mark.parametrize("model", [GEMINI, GPT, CLAUDE])
def test_documents_are_reported_as_uncounted(model):
    part = Attachment(media_type="application/pdf", data=base64.b64decode("JVBERi0="))

    found = estimate_input_tokens(build_chat_inputs(model=model, prompt="x" * 400, attachments=[part]))

    assert found == InputTokens(tokens=100, uncounted_attachments=1)


def test_a_document_by_url_is_uncounted_too():
    part = Attachment.from_url("https://files.test/a.pdf")

    assert (
        estimate_input_tokens(build_chat_inputs(model=CLAUDE, prompt="Hi", attachments=[part])).uncounted_attachments
        == 1
    )


def test_text_is_counted_by_its_bytes_and_the_schema_counts():
    plain = estimate_input_tokens(build_chat_inputs(model=GPT, prompt="字" * 40, system="x" * 40)).tokens
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    structured = estimate_input_tokens(
        build_chat_inputs(model=GPT, prompt="字" * 40, system="x" * 40, response_format=asked)
    ).tokens

    assert plain == 40
    assert structured > plain + 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "prices is a list"),
        ({"a": 1}, r"prices\.a is an int"),
        ({"a": {"input": 1}}, r"prices\.a\.output is missing"),
        ({"a": {"input": 1, "output": "2"}}, r"prices\.a\.output is '2'"),
        ({"a": {"input": -1, "output": 2}}, r"prices\.a\.input is -1"),
        ({"a": {"input": 1, "output": float("nan")}}, r"prices\.a\.output is nan"),
        ({"a": {"input": 1, "output": 2, "outptu": 2}}, r"prices\.a\.outptu is unknown"),
        ({"a": {"request": "1"}}, r"prices\.a\.request is '1'"),
        ({"a": {"request": -0.1}}, r"prices\.a\.request is -0.1"),
        ({"a": {"request": True}}, r"prices\.a\.request is True"),
        ({"a": {"request": 1, "input": 1, "output": 2}}, r"prices\.a has request and prices of tokens"),
        ({"a": {}}, r"prices\.a\.input is missing: .* or request"),
    ],
)
def test_invalid_prices_are_errors_that_name_the_entry(given, message):
    with pytest.raises(SegmindConfigError, match=message):
        read_prices(given)


def test_the_estimate_of_a_request_is_plain_data_with_a_range_and_the_balance():
    seen = estimate_request(
        "gemini-3.1-flash-lite", {"prompt": "x" * 400, "max_tokens": 1000}, prices=None, balance=5.0
    )

    assert (seen["input_tokens"], seen["covered"], seen["warning"]) == (100, True, None)
    assert seen["low"] == pytest.approx(100 * 0.25e-6)
    assert seen["high"] == pytest.approx(100 * 0.25e-6 + 1000 * 1.5e-6)
    assert seen["price"]["as_of"] == "2026-11-22"
    assert json.loads(json.dumps(seen)) == seen


def test_a_balance_that_does_not_cover_the_range_gives_a_warning():
    seen = estimate_request("gemini-3.1-flash-lite", {"prompt": "x"}, prices=None, balance=0.01)

    assert seen["covered"] is False
    assert "balance of $0.01 does not cover" in seen["warning"]


def test_an_unknown_price_gives_a_warning_and_is_not_zero():
    seen = estimate_request("my-model", {"prompt": "x"}, prices=None, balance=0.0)

    assert (seen["low"], seen["high"], seen["covered"]) == (None, None, None)
    assert "The price of 'my-model' is unknown" in seen["warning"]


def test_prices_in_the_extra_may_be_a_string_of_json():
    assert read_prices('{"m": {"input": 1, "output": 2}}')["m"].output == 2.0
    with pytest.raises(SegmindConfigError, match="prices is a string that is not JSON"):
        read_prices("{")


PRICED = {"m": Price(input=1.0, output=10.0), "gemini-x": Price(input=1.0, output=10.0, max_output_tokens=500)}


@given(text=st.text(max_size=300), cap=st.integers(1, 5000))
def test_a_bound_covers_a_token_for_each_byte_and_the_whole_output_cap(text: str, cap: int) -> None:
    text = text.encode("utf-8", "replace").decode()
    inputs = {"messages": [{"role": "user", "content": text}], "max_tokens": cap}
    bound = cost_bound("m", inputs, prices=PRICED)
    assert bound.certain
    assert bound.usd >= (len(text.encode()) + 10 * cap) / 1e6
    assert bound.usd <= (len(text.encode()) + 10 * cap + 100) / 1e6


MESSAGE = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 9}
PICTURE = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]}


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("unpriced", MESSAGE),
        ("m", {"messages": MESSAGE["messages"]}),
        ("m", {**MESSAGE, "n": 3}),
        ("m", {**MESSAGE, "web_search": True}),
        ("m", {**MESSAGE, "tools": [{"type": "function"}]}),
        ("m", {**MESSAGE, "generationConfig": {"candidateCount": 2}}),
        ("m", {**MESSAGE, "image": "https://example.com/a.png"}),
        ("m", {**PICTURE, "max_tokens": 9}),
        ("m", {"text": "a picture of a cat", "max_tokens": 9}),
        ("gemini-x", {**MESSAGE, "messages": {"contents": [{"parts": [{"inlineData": {"mimeType": "application/pdf",
                                                                                    "data": "AA"}}]}]}}),
    ],
    ids=str,
)  # fmt: skip
def test_a_bound_is_not_certain_if_something_else_may_be_billed(model: str, inputs: dict[str, Any]) -> None:
    assert not cost_bound(model, inputs, prices=PRICED).certain


def test_a_bound_counts_images_of_gemini_and_is_limited_by_the_output_cap_of_the_model() -> None:
    inline = {"inlineData": {"mimeType": "image/png", "data": "A" * 100_000}}
    inputs = {"messages": {"contents": [{"role": "user", "parts": [inline]}]}, "max_tokens": 10_000}
    bound = cost_bound("gemini-x", inputs, prices=PRICED)
    assert bound.certain
    assert (1_120 + 16 + 500 * 10) / 1e6 < bound.usd < (1_120 + 16 + 200 + 500 * 10) / 1e6


IMAGE = "https://h/a.png"


def _part(part: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": ["a", part]}], "max_tokens": 9}


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        *(
            ({"prompt": "a", "max_tokens": 9, **extra}, next(iter(extra)))
            for extra in (
                {"num_outputs": 4}, {"samples": 4}, {"batch_size": 2}, {"n": True}, {"service_tier": "priority"},
                {"files": ["https://h/x.pdf"]}, {"images": [IMAGE] * 20}, {"image": IMAGE}, {"image_url": IMAGE},
                {"image_url": {"url": IMAGE}}, {"video": {"url": "https://h/a.mp4"}}, {"deep": {"er": [[IMAGE]]}},
                {"safe_prompt": True}, {"num_beams": 4},
                {"grounding": True}, {"file_ids": ["file-1"]}, {"cachedContent": "c/1"}, {"tools": [{}]},
            )
        ),
        ({"prompt": ["a", "b"], "max_tokens": 9}, "prompt"),
        ({"messages": {"contents": [], "generationConfig": {"responseModalities": ["IMAGE"]}}, "max_tokens": 9},
         "messages.generationConfig.responseModalities"),
        *(
            (_part(part), "messages[0].content[1]")
            for part in (
                {"fileData": {"fileUri": IMAGE}}, {"fileData": {"fileUri": IMAGE, "mimeType": "video/mp4"}},
                {"inlineData": {"data": "AA"}}, {"type": "image_url", "image_url": {"url": "https://h/x.pdf"}},
                {"type": "image_url", "image_url": "https://h/x"}, {"type": "image_url", "image_url": None},
                {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,AA"}},
                {"type": "image_url", "image_url": {"url": "https://[h/a.png"}},
                {"type": "input_file", "file_id": "f"}, {"type": "video", "video": IMAGE}, {"type": "who_knows"},
                {"type": ["text"], "text": "a"}, {"type": "image", "source": {"type": "file", "file_id": "f"}},
                {"type": "document", "source": {"type": "text", "data": "a"}},
            )
        ),
        (_part({"text": "a", "videoMetadata": {"fps": 5}}), "messages[0].content[1].videoMetadata"),
        ({"messages": [{"role": "user", "content": "a", "attachments": ["file-1"]}], "max_tokens": 9},
         "messages[0].attachments"),
        ({"messages": [{"role": "user", "content": "a", "audio": {"id": "1"}}], "max_tokens": 9}, "messages[0].audio"),
    ],
    ids=str,
)  # fmt: skip
def test_a_field_of_unknown_cost_is_named(inputs: dict[str, Any], field: str) -> None:
    bound = cost_bound("gemini-x", inputs, prices=PRICED)

    assert (bound.certain, bound.doubt) == (False, field)


@pytest.mark.parametrize(
    "extra",
    [{"n": 1}, {"tools": []}, {"web_search": False}, {"temperature": 0.3, "top_p": 1, "seed": 7}, {"stop": ["x"]},
     {"response_format": {"type": "json_object"}}, {"system": "https://h/"}, {"safetySettings": [{"threshold": "x"}]},
     {"tool_choice": "none", "parallel_tool_calls": True}, {"random_seed": 7, "do_sample": True, "max_new_tokens": 9},
     {"repeat_penalty": 1.1, "length_penalty": 1, "min_tokens": 5}, {"prompt_cache_key": "k", "enable_thinking": True},
     {"generationConfig": {"temperature": 1, "responseLogprobs": True, "thinkingConfig": {"thinkingBudget": 9}}}],
    ids=str,
)  # fmt: skip
def test_usual_options_leave_a_bound_certain(extra: dict[str, Any]) -> None:
    assert cost_bound("m", {**MESSAGE, **extra}, prices=PRICED).certain


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(schema=_JSON, text=st.text(max_size=50), where=st.sampled_from(["response_format", "metadata", "stop"]))
def test_a_bound_covers_all_of_a_body(schema: Any, text: str, where: str) -> None:
    inputs = {"messages": [{"role": "user", "content": text}], "max_tokens": 1, where: schema}
    written = json.dumps({**inputs, "messages": ""}, ensure_ascii=False).encode("utf-8", "replace")
    bound = cost_bound("m", inputs, prices=PRICED)

    assert bound.certain
    assert bound.usd * 1e6 >= len(written) + len(text.encode("utf-8", "replace")) + 10


def test_a_price_for_each_request_is_the_bound_and_the_estimate_whatever_is_in_it() -> None:
    own = read_prices({"m": {"request": 0.05}})
    inputs = {"image": IMAGE, "num_outputs": 4}
    seen = estimate_request("m", inputs, prices=own, balance=0.04)

    assert cost_bound("m", inputs, prices=own) == CostBound(usd=0.05, certain=True)
    assert (seen["low"], seen["high"], seen["covered"]) == (0.05, 0.05, False)
    assert "it costs $0.05 (price: your own price)" in seen["summary"]
    assert seen["price"] == {"request": 0.05, "as_of": None, "source": "your own price"}
    assert seen["uncounted_attachments"] == 1


@pytest.mark.parametrize("cap", [None, 0, -1, True, "500"])
def test_without_an_output_cap_of_its_own_a_request_may_have_the_limit_of_the_model(cap: Any) -> None:
    bound = cost_bound("gemini-x", {**MESSAGE, "max_tokens": cap}, prices=PRICED)
    assert (bound.certain, bound.assumed_cap) == (True, 500)
    assert bound.usd >= 500 * 10 / 1e6
    assert cost_bound("gemini-x", MESSAGE, prices=PRICED).assumed_cap is None


def test_without_any_known_output_cap_as_much_is_assumed_as_an_answer_is_ever_asked_to_have() -> None:
    bound = cost_bound("m", {"messages": MESSAGE["messages"]}, prices=PRICED)
    assert (bound.certain, bound.assumed_cap) == (False, LARGEST_OUTPUT_CAP)
    assert bound.usd >= LARGEST_OUTPUT_CAP * 10 / 1e6


def test_a_bound_covers_the_names_in_the_schema_of_the_answer() -> None:
    schema = {"type": "object", "properties": {f"name_{number}": {"type": "string"} for number in range(500)}}
    bound = cost_bound("m", {**MESSAGE, "response_format": schema}, prices=PRICED)
    assert bound.usd >= len(json.dumps(schema)) / 1e6


@pytest.fixture
def genai_prices() -> Iterator[Any]:
    """The package of the extra [prices]; other tests have none, because it needs the httpx2 that is withheld."""
    cost_estimate._published_price.cache_clear()
    with with_httpx2():
        data_snapshot = pytest.importorskip("genai_prices.data_snapshot", reason="the extra [prices] is not installed")

        yield data_snapshot
    cost_estimate._published_price.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "genai_prices"]:
        del sys.modules[name]


def test_prices_come_from_genai_prices_where_it_is_installed(genai_prices: Any) -> None:
    gpt, gemini = price_of("gpt-5"), price_of(GEMINI)

    assert gpt is not None
    assert (gpt.input, gpt.output, gpt.max_output_tokens) == (1.25, 10.0, None)
    assert gpt.source.startswith("genai-prices 0.")
    assert gemini is not None
    assert gemini.max_output_tokens == PRICES[GEMINI].max_output_tokens
    assert price_of("nobody-sells-this-1") is None
    assert price_of("claude-opus-4.7") is not None
    assert price_of("gpt-5", {"gpt-5": Price(input=7, output=8)}) == Price(input=7, output=8)


def test_the_most_expensive_of_the_tiers_counts(genai_prices: Any) -> None:
    _, model = genai_prices.get_snapshot().find_provider_model("gemini-2.5-pro", None, None, None)
    listed, price = model.prices.input_mtok, price_of("gemini-2.5-pro")

    assert price is not None
    assert price.input == float(listed.tiers[-1].price) > float(listed.base)


def test_an_estimate_says_which_price_it_uses(genai_prices: Any) -> None:
    body = build_chat_inputs(model="gpt-5", prompt="Hi", options={"max_tokens": 100})
    own = {"gpt-5": Price(input=1, output=2)}

    published = estimate_request("gpt-5", body, prices=None, balance=None)
    given = estimate_request("gpt-5", body, prices=own, balance=None)

    assert "(price: genai-prices 0." in published["summary"]
    assert published["price"]["source"].startswith("genai-prices 0.")
    assert "(price: your own price)" in given["summary"]


def test_without_genai_prices_the_dated_table_is_used() -> None:
    cost_estimate._published_price.cache_clear()

    assert price_of(GEMINI) == PRICES[GEMINI]
    assert price_of("gpt-5") is None
    found = estimate_request(GEMINI, build_chat_inputs(model=GEMINI, prompt="Hi"), prices=None, balance=None)
    assert "August 2026, 2026-11-22)" in found["summary"]
