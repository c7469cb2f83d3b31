"""The estimated cost of a request: a range, or nothing if the price is unknown; never zero for unknown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_segmind.chat import cost_estimate
from airflow_provider_segmind.chat.cost_estimate import (
    PRICES,
    CostBound,
    Price,
    cost_bound,
    estimate_cost,
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


def test_a_price_of_cached_tokens_changes_no_estimate():
    prices = read_prices({"m": {"input": 2, "output": 3, "cached_input": 0.1}})

    assert prices == read_prices({"m": {"input": 2, "output": 3}})


def test_every_price_has_a_date_and_a_source():
    assert all(price.as_of and price.source for price in PRICES.values())
    assert PRICES[GEMINI].average_request == 0.00105109


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
        ({"a": {"request": 1, "input": 1, "output": 2}}, r"prices\.a has both request and token prices"),
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
    assert seen["summary"].endswith(", which the balance of $5.00 covers. Nothing was submitted.")
    assert json.loads(json.dumps(seen)) == seen


def test_a_balance_that_does_not_cover_the_range_gives_a_warning():
    seen = estimate_request("gemini-3.1-flash-lite", {"prompt": "x"}, prices=None, balance=0.01)

    assert seen["covered"] is False
    assert "balance of $0.01 does not cover" in seen["warning"]
    assert "covers" not in seen["summary"]


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


def test_a_bound_counts_images_of_gemini_and_is_limited_by_the_output_cap_of_the_model() -> None:
    inline = {"inlineData": {"mimeType": "image/png", "data": "A" * 100_000}}
    inputs = {"messages": {"contents": [{"role": "user", "parts": [inline]}]}, "max_tokens": 10_000}
    bound = cost_bound("gemini-x", inputs, prices=PRICED)
    assert bound.certain
    assert (1_120 + 16 + 500 * 10) / 1e6 < bound.usd < (1_120 + 16 + 200 + 500 * 10) / 1e6


def test_a_price_for_each_request_is_the_bound_and_the_estimate_whatever_is_in_it() -> None:
    own = read_prices({"m": {"request": 0.05}})
    inputs = {"image": "https://h/a.png", "num_outputs": 4}
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
