"""A key that a server sends back in another form is in no message and in no traceback."""

from __future__ import annotations

import base64
import html
import json
import string
import time
import traceback
from collections.abc import Callable
from urllib.parse import quote

import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_provider_segmind import masking
from airflow_provider_segmind.client.client import ClientConfig
from airflow_provider_segmind.client.endpoints import Endpoints, Wire
from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.client.responses import CallContext, Response, server_message
from airflow_provider_segmind.client.transport_errors import transport_error
from airflow_provider_segmind.exceptions import (
    SegmindAPIError,
    SegmindBadRequestError,
    SegmindError,
    SegmindReplyError,
    SegmindSubmissionUnknownError,
)
from airflow_provider_segmind.masking import mask, mask_known, masked, remember
from tests.support.examples import examples

KEYS = st.one_of(
    st.text(string.ascii_letters + string.digits, min_size=16, max_size=44).map("SG_".__add__),
    st.text(string.ascii_letters + string.digits + "_-.", min_size=16, max_size=44),
    st.text(string.ascii_letters + string.digits + "+/=&<>\"'\\~!", min_size=16, max_size=44),
)
BREAKS = (
    "\n",
    "\r\n",
    " ",
    "\t",
    "<wbr>",
    "</b><b>",
    "\u200b",
    "\u00ad",
    "&shy;",
    "&#8203;",
    "\\n",
    "%0A",
    "&lt;br&gt;",
)


def percent(key: str) -> str:
    return "".join(f"%{byte:02X}" for byte in key.encode())


FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "upper case": str.upper,
    "lower case": str.lower,
    "quoted": lambda key: quote(key, safe=""),
    "percent": percent,
    "percent, lower case": lambda key: percent(key).lower(),
    "percent, twice": lambda key: percent(key).replace("%", "%25"),
    "entities": lambda key: "".join(f"&#{ord(one)};" for one in key),
    "hexadecimal entities": lambda key: "".join(f"&#x{ord(one):04X};" for one in key),
    "entities, escaped": lambda key: "".join(f"&amp;#{ord(one)};" for one in key),
    "HTML": html.escape,
    "JSON": lambda key: json.dumps(key)[1:-1],
    "JSON, twice": lambda key: json.dumps(json.dumps(key))[1:-1],
    "JSON escapes": lambda key: "".join(f"\\u{ord(one):04x}" for one in key),
    "Python escapes": lambda key: "".join(f"\\x{ord(one):02x}" for one in key),
    "mail": lambda key: "".join(f"={ord(one):02X}" for one in key),
    "hexadecimal": lambda key: key.encode().hex(),
    "hexadecimal, upper case": lambda key: key.encode().hex(":").upper(),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 for URLs": lambda key: base64.urlsafe_b64encode(key.encode()).decode().rstrip("="),
    "base64 of credentials": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "base64 of a header": lambda key: base64.b64encode(f"x-api-key: {key}\r\n".encode()).decode(),
    "base64 in lines": lambda key: base64.encodebytes(f"{'x' * 50}{key}{'y' * 50}".encode()).decode(),
    "in an id": lambda key: f"req-{key}-1",
    "cut off": lambda key: key[: len(key) * 3 // 4] + "…",
}


def looks_like(key: str, text: str) -> bool:
    """Return whether a reader could get a key out of a text, or most of it, by decoding it in the usual ways."""
    for _ in range(2):
        text = html.unescape(text)
    return key[: len(key) // 2 + 1].lower() in text.lower()


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=examples(20))
@example(key="00000\\N000000000")
@given(key=KEYS)
def test_a_key_is_masked_in_every_form(form: str, key: str) -> None:
    echoed = FORMS[form](key)
    said = mask(f"Bad credentials: [{echoed}] (401).", key)

    assert "***" in said
    assert echoed not in said
    assert not looks_like(key, said)
    assert said.startswith("Bad credentials: [")
    assert said.endswith("(401).")


@settings(max_examples=examples(150))
@given(
    key=KEYS.filter(lambda key: not set(key) & set("\\<>&=")), pause=st.sampled_from(BREAKS), every=st.integers(1, 9)
)
def test_a_key_interrupted_by_tags_or_line_breaks_is_masked(key: str, pause: str, every: int) -> None:
    pieces = [key[start : start + every] for start in range(0, len(key), every)]
    said = mask(f"({pause.join(pieces)})", key)

    assert said == "(***)"


MARKUP = (
    f'<span class="{"x" * 500}">',
    f"<span data-a='{'y' * 600}'>",
    "<style>b { color: red }</style>",
    "<STYLE media='a>b'>b > a { color: red }</Style >",
    "<script>if (a < b && b > c) { d() }</script>",
    "<!-- a comment with a < in it -->",
    "<!-- a <b>comment</b> with > and <i title='x' -->",
    "<i title='a>b'>",
    '<i title = "a>b<c" lang=en>',
    "<i title='a>b'></i>",
    "<template><p>hidden</p></template>",
    "<noscript>please</noscript>",
    "<![CDATA[",
    "<?php echo 1 ?>",
    "<don't>",
    "<a=\"x' b>",
    "<br/><style>p{}</style><!-- < -->\n<b title='>'>",
    "&lt;i title=&#39;a&gt;b&#39;&gt;",
)
PLAIN_KEYS = st.text(string.ascii_letters + string.digits + "_-", min_size=16, max_size=44)


@settings(max_examples=examples(200))
@given(key=PLAIN_KEYS.map("SG_".__add__) | PLAIN_KEYS, pause=st.sampled_from(MARKUP), every=st.integers(1, 30))
@example(key="SG_a1b2c3d4e5f60718", pause=MARKUP[0], every=11)
@example(key="SG_a1b2c3d4e5f60718", pause=MARKUP[7], every=1)
def test_a_key_interrupted_by_any_markup_is_masked(key: str, pause: str, every: int) -> None:
    echoed = pause.join(key[start : start + every] for start in range(0, len(key), every))
    page = f"<html><body><p>Bad credentials ({echoed}) for <b>you</b></p></body></html>"

    assert mask(page, key) == page.replace(echoed, "***")
    assert server_message(Response(401, page.encode()), key) == "Bad credentials (***) for you"


@pytest.mark.parametrize(
    "page",
    [
        "<script>var k = '{}';</script>", "<!-- key: {} -->", "<!-- {} <b>", "<style>.{} {{}}", "<i title='{}'>x</i>",
        "<i title='{}", "<head><meta content={}></head>", "<{}>", "a < {} > b", "<!--><b>{}</b><!-->", "<a=\"'{}>'\">",
    ],
)  # fmt: skip
def test_a_key_inside_markup_is_masked(page: str) -> None:
    key = "SG_a1b2c3d4e5f60718"
    cut = "</b><b>".join(key)
    for echoed in (key, cut) if "<script" in page or "<!-- key" in page else (key,):
        said = mask(page.format(echoed), key)
        assert said == page.format("***")
    assert key not in server_message(Response(500, page.format(key).encode()), key)


@pytest.mark.parametrize(
    "repeated",
    [
        *("<style>", "<script", "<!--", "<!-- <", "<a='", '<a="<', "<'\"", "<a='<b=\"", "<?", "<![CDATA[", "</"),
        *("<style></script>", "<a=' >", "<!-->", "=\"='", "<a ='>' <", "&lt;a=&quot;&lt;"),
    ],
)
@pytest.mark.parametrize("key", ["SG_" + "a" * 40, "<a='<b=\"" * 5])
def test_masking_markup_that_does_not_end_takes_little_time(repeated: str, key: str) -> None:
    page = repeated * (500_000 // len(repeated))
    began = time.process_time()
    assert len(mask(page, key)) <= masking.LONGEST
    server_message(Response(502, page.encode()), key)
    assert time.process_time() - began < 5


@settings(max_examples=examples(200))
@given(text=st.text(max_size=300) | st.text("<>='\"!-/abst \n", max_size=300), key=KEYS)
def test_a_text_without_the_key_is_unchanged(text: str, key: str) -> None:
    if "SG_" not in text and not looks_like(key, text):
        assert mask(text, key) == text


def test_masking_a_long_hostile_page_takes_no_time() -> None:
    key = "SG_" + "a" * 40
    for page in ("S" * 20_000, "SG_" + " " * 20_000, "<" * 20_000, "SG_" + "a<b>" * 5_000, "&#" * 10_000):
        assert len(mask(page, key)) <= len(page)


KEY = "Zk81_canary-key-of-a-test"


@pytest.fixture(autouse=True)
def _known() -> None:
    ClientConfig(api_key=KEY)


@pytest.mark.parametrize("form", FORMS)
def test_every_error_of_ours_masks_what_it_quotes(form: str) -> None:
    echoed = FORMS[form](KEY)
    errors: list[SegmindError] = [
        SegmindError(f"said {echoed}"),
        SegmindBadRequestError("no", body=echoed),
        SegmindReplyError(f"said {echoed}", reason="invalid", reply=echoed),
    ]
    for error in errors:
        assert echoed not in f"{error!r} {error} {vars(error)}"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "page", ["<html><body>{}</body></html>", '{{"error": "{}"}}', '{{"detail": {{"headers": ["{}"]}}}}']
)
def test_an_error_response_that_quotes_the_key_is_masked(form: str, page: str) -> None:
    echoed = FORMS[form](KEY)
    answer = Response(401, page.format(echoed).encode())

    assert not looks_like(KEY, server_message(answer, KEY))
    assert echoed not in server_message(answer, KEY)


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


class Answered(pydantic.BaseModel):
    """What a library refuses, quoting it."""

    number: int


@pytest.mark.parametrize("form", FORMS)
def test_a_traceback_shows_no_key_in_its_causes(form: str) -> None:
    echoed = FORMS[form](KEY)
    try:
        try:
            try:
                Answered(number=echoed)  # type: ignore[arg-type]
            except pydantic.ValidationError as error:
                error.add_note(f"asked with {echoed}")
                raise KeyError(echoed) from error
        except KeyError as error:
            raise httpx.RemoteProtocolError(f"illegal header line: {echoed!r}") from error
    except httpx.RemoteProtocolError as error:
        context = CallContext(what="Submitting", secret=KEY, paid=True)
        try:
            raise transport_error(context, "https://api.segmind.com", error) from error
        except SegmindSubmissionUnknownError as found:
            said = printed(found)

    assert "***" in said
    assert echoed not in said
    assert not looks_like(KEY, said)
    assert "RemoteProtocolError" in said


def test_an_error_without_secrets_is_unchanged() -> None:
    cause = ValueError("plain")
    error = SegmindAPIError("plain")
    error.__cause__ = cause

    assert masked(error) is error
    assert error.__cause__ is cause
    looped = ValueError("a")
    looped.__context__ = ValueError("b")
    looped.__context__.__context__ = looped
    assert masked(looped) is looped


def test_an_error_keeps_little_of_a_large_body_that_cannot_be_decoded() -> None:
    body = b'{"key": "' + KEY.encode() + b'", "text": "' + b"\xe9<p>" * 500_000
    with pytest.raises(SegmindError) as caught:
        Wire(Endpoints(), KEY).result("r-1").read(Response(200, body))

    linked: BaseException | None = caught.value
    while linked is not None:
        assert len(repr(linked)) < 2 * masking.LONGEST
        assert KEY not in repr(linked)
        linked = linked.__cause__


@pytest.mark.parametrize("text", ["a" * 200_000, f"{KEY} " * 10_000])
def test_an_error_with_a_long_text_is_masked_and_cut_and_keeps_its_class(text: str) -> None:
    remember(KEY)
    error = ValueError(text)

    assert masked(error) is error
    assert 0 < len(str(error)) <= masking.LONGEST
    assert not looks_like(KEY, str(error)[-100:])
    assert KEY not in str(error)


def test_an_error_whose_long_text_cannot_be_cut_is_replaced() -> None:
    class ColumnsError(Exception):
        def __str__(self) -> str:
            return f"{KEY} is not a number; " * 10_000

    remember(KEY)
    shown = masked(ColumnsError())

    assert str(shown).startswith("ColumnsError: *** is not a number; ")
    assert len(str(shown)) <= masking.LONGEST + 20


def test_an_error_that_is_its_own_cause_is_masked_once() -> None:
    remember(KEY)
    error = OSError(5, f"refused for {KEY}")
    other = OSError(5, f"refused with {KEY}")
    error.__cause__, other.__cause__ = other, error

    for found in (masked(error), masked(other)):
        assert KEY not in printed(found)
        assert found.__cause__ is not None
        assert found.__cause__.__cause__ is found

    own = OSError(5, f"refused for {KEY}")
    own.__cause__ = own
    shown = masked(own)
    assert shown.__cause__ is shown
    assert KEY not in printed(shown)


def test_a_request_id_that_contains_the_key_is_invalid() -> None:
    wire = Wire(Endpoints(), KEY)
    body = json.dumps({"request_id": f"r-{KEY}", "status": "QUEUED"}).encode()
    with pytest.raises(SegmindError, match="no usable request_id") as caught:
        wire.submit("a-model", {}).read(Response(200, body))
    assert KEY not in printed(caught.value)
    assert caught.value.billed is None


def test_a_process_remembers_the_most_recently_used_keys() -> None:
    before = masking._known.copy()
    for number in range(masking.REMEMBERED_SECRETS + 10):
        remember(f"{number:04}-another-key")
    assert mask_known("0073-another-key") == "***"
    assert mask_known("0001-another-key") == "0001-another-key"
    masking._known.clear()
    masking._known.update(before)
