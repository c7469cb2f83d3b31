"""A row becomes the inputs of a request, with its attachments; its reply becomes columns."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.arguments import answer_columns, properties_of
from airflow_provider_segmind.budget.guard import request_bound
from airflow_provider_segmind.chat.attachments import (
    MAX_INLINE_BYTES,
    Attachment,
    attachment_block,
    load_attachment,
    too_large_inline,
)
from airflow_provider_segmind.chat.cost_estimate import CostBound, cost_bound
from airflow_provider_segmind.chat.json_values import clean_value
from airflow_provider_segmind.chat.messages import build_chat_inputs
from airflow_provider_segmind.chat.model_families import ApiFormat, assumption, family_of
from airflow_provider_segmind.chat.replies import read_reply
from airflow_provider_segmind.chat.reply_policy import Accept, decide_reply, follow_up_form
from airflow_provider_segmind.defaults import ANSWER_COLUMN
from airflow_provider_segmind.enrichment.outcomes import RowReply, RowVerdict
from airflow_provider_segmind.enrichment.question import Question
from airflow_provider_segmind.enrichment.rows import Row, canonical_json, placeholders
from airflow_provider_segmind.enrichment.storage import StorePath, is_on_local_disk
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindRowError, shorten
from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.stores import locate

if TYPE_CHECKING:
    from airflow_provider_segmind.chat.cost_estimate import Price
    from airflow_provider_segmind.chat.output_type import OutputType


_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_STRIPPED = str.maketrans("", "", "\t\r\n")
"""Characters that URL parsers remove wherever they are."""
_UNREADABLE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class RowAttachments:
    """
    The attachments of each row.

    :param templates: paths, object storage URIs or http(s) addresses, with ``{column}`` placeholders.
    :param family: the form in which the model takes files.
    """

    def __init__(self, templates: Sequence[str], family: ApiFormat) -> None:
        self._templates = tuple(templates)
        self._family = family
        self._fixed: dict[str, Attachment] = {}

    def load(self, row: Row) -> list[Attachment]:
        """
        Load the attachments of a row; http(s) addresses are fetched by the model's provider. Blocks.

        :raises SegmindRowError: one is missing, too large, or of a type the model does not take. Nothing was sent.
        :raises SegmindConfigError: a column is missing; names it.
        :raises OSError: a store cannot be reached, which is not the same as a missing file.
        """
        return [self._load(row, f"files[{index}]", template) for index, template in enumerate(self._templates)]

    def _load(self, row: Row, name: str, template: str) -> Attachment:
        if template not in self._fixed:
            part = self._loaded(row, name, template)
            if _PLACEHOLDER.search(template):
                return part
            self._fixed[template] = part
        return self._fixed[template]

    def _loaded(self, row: Row, name: str, template: str) -> Attachment:
        whole = _PLACEHOLDER.fullmatch(template)
        value = row.values.get(whole[1]) if whole else None
        source = bytes(value) if isinstance(value, bytes | bytearray | memoryview) else row.fill(template)
        try:
            part = load_attachment(
                source,
                read=lambda address: self._read(address, name, template),
                max_inline_bytes=MAX_INLINE_BYTES,
                field_name=name,
            )
            # One byte in place of the content: to check that the type is accepted, the file need not be encoded.
            attachment_block(part if part.data is None else replace(part, data=b"."), self._family)
        except SegmindConfigError as error:
            raise SegmindRowError(f"{error} Nothing was sent for this row.") from error
        return part

    def _read(self, address: str, name: str, template: str) -> bytes:
        _check_reach(address, name, template)
        try:
            path = locate(address)
        except (ValueError, ImportError) as error:
            raise SegmindRowError(
                f"{name} is in a storage system that this Airflow does not support: {shorten(str(error), 80)}."
            ) from error
        _check_store(path, name, template)
        shown = f"{name} ({shorten(path.name, 80)!r})"
        try:
            with path.open("rb") as file:
                # One byte more than the limit shows that it is too large, however large it is.
                data: bytes = file.read(MAX_INLINE_BYTES + 1)
        except _UNREADABLE as error:
            why = (
                "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {type(error).__name__}"
            )
            raise SegmindRowError(f"{shown} {why}.") from error
        if len(data) > MAX_INLINE_BYTES:
            raise too_large_inline(shown, MAX_INLINE_BYTES)
        return data


def _check_reach(address: str, name: str, template: str) -> None:
    """
    Check that a row cannot name a file outside what its template allows.

    :raises SegmindRowError: it does.
    """
    if not _PLACEHOLDER.search(template):
        return
    read_as = address.translate(_STRIPPED)
    if any(".." in re.split(r"[/\\]", each) for each in (address, read_as)):
        raise SegmindRowError(f"{name} leaves its folder through '..'.")
    if "@" in read_as.partition("://")[2].partition("/")[0] and "@" not in _PLACEHOLDER.split(template)[0]:
        raise SegmindRowError(f"{name} names a Connection, which a row may not: write it into the template.")


def _check_store(path: StorePath, name: str, template: str) -> None:
    """
    Check that a row that names the store does not name the worker's local disk, however that is spelled.

    :raises SegmindRowError: it does.
    """
    if _PLACEHOLDER.match(template.lstrip()) and is_on_local_disk(path):
        raise SegmindRowError(
            f"{name} names a local file of the worker, which a row may not: write its folder into the template, as in "
            "files=['/data/photos/{name}']."
        )


FEWEST_REQUESTS = 10
"""Requests without an output cap for which ``max_cost`` must suffice at the model's limit; else it is estimated."""
PARALLEL_BUILDS = 4
"""Rows whose attachments are loaded at the same time, because a store takes tens of milliseconds for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPromptSettings:
    """
    What is sent for each row: the operator's arguments of the same names, rendered and checked.

    :param max_cost: USD; None reserves nothing, and then no prices are needed.
    :param budgeted: whether budgets apply, which require a known upper bound of each row.
    """

    key: tuple[str, ...]
    model: str
    prompt: str | None
    system: str | None
    files: tuple[str, ...]
    inputs: Mapping[str, Any] | None
    options: Mapping[str, Any] | None
    api_format: str | None
    output_type: OutputType | None
    max_repairs: int
    max_cost: float | None
    budgeted: bool = False


def row_question(settings: RowPromptSettings, *, prices: Mapping[str, Price] | None, log: Any) -> Question:
    """
    Return what is sent for each row.

    :param prices: the account's, None when they are unknown.
    :raises SegmindConfigError: it cannot work; nothing was sent.
    """
    prompt = RowPrompt(settings, prices=prices, log=log)
    return Question(
        model=settings.model,
        build=prompt.build,
        read=prompt.read,
        key=settings.key,
        answer_columns=answer_columns(settings.output_type),
        placeholders=placeholders([settings.prompt, settings.system, settings.inputs, settings.files]),
        schema=settings.output_type.schema if settings.output_type else None,
        template={
            "prompt": settings.prompt,
            "system": settings.system,
            "inputs": settings.inputs,
            "files": list(settings.files),
            "options": settings.options,
            "api_format": settings.api_format,
        },
        parallel_builds=PARALLEL_BUILDS if settings.files else 1,
        text=prompt.text,
        form=follow_up_form,
        **({} if settings.max_cost is None and not settings.budgeted else {"most": prompt.most}),
    )


class RowPrompt:
    """
    Builds the request for a row, and reads its reply.

    :param prices: the account's, None when they are unknown.
    """

    def __init__(self, settings: RowPromptSettings, *, prices: Mapping[str, Price] | None, log: Any) -> None:
        self._settings = settings
        self._prices = prices
        self._log = log
        self._uncertainty_logged = self._assumption_logged = False
        self._characters_logged = False
        self._fields = tuple(properties_of(settings.output_type))
        self._attachments: RowAttachments | None = None
        self._format: dict[str, Any] | None = None
        if settings.inputs is None:
            family = family_of(settings.model, settings.api_format)
            if warning := assumption(settings.model, settings.api_format):
                log.warning("%s", warning)
            if settings.files:
                self._attachments = RowAttachments(settings.files, family)
            if settings.output_type is not None:
                self._format = settings.output_type.response_format(family)
        self._around = self._text_around_prompt()

    def build(self, row: Row) -> Mapping[str, Any]:
        """
        Build the body for a row.

        :raises SegmindConfigError: a column is missing, or its value cannot be sent; or budgets apply, and what it may
            cost is not known.
        :raises OSError: a store of files cannot be reached.
        """
        inputs = self._build(row)
        if self._settings.budgeted:
            request_bound(self._settings.model, inputs, self._prices or {})
        return inputs

    def text(self, row: Row) -> str | None:
        """
        Return the canonical JSON of what :meth:`build` returns if only the prompt differs from row to row, else None.

        A table that runs again needs nothing else for most of its rows.

        :raises SegmindConfigError: as :meth:`build`.
        """
        if self._around is None:
            return None
        before, after = self._around
        return before + canonical_json(_filled("prompt", str(self._settings.prompt), row)) + after

    def _text_around_prompt(self) -> tuple[str, str] | None:
        settings = self._settings
        if settings.prompt is None or settings.files or settings.budgeted or "{" in (settings.system or ""):
            return None
        prompt = f"prompt-{uuid.uuid4().hex}"
        try:
            text = canonical_json(self._chat_inputs(prompt, Row(0, {})))
        except SegmindConfigError:
            # The first row is refused for the same reason.
            return None
        parts = text.split(canonical_json(prompt))
        return (parts[0], parts[1]) if len(parts) == 2 else None

    def _build(self, row: Row) -> Mapping[str, Any]:
        settings = self._settings
        if settings.inputs is not None:
            filled: Mapping[str, Any] = row.fill_inputs(settings.inputs)
            return filled
        return self._chat_inputs(_filled("prompt", str(settings.prompt), row), row)

    def _chat_inputs(self, prompt: str, row: Row) -> Mapping[str, Any]:
        settings = self._settings
        return build_chat_inputs(
            model=settings.model,
            prompt=prompt,
            system=None if settings.system is None else _filled("system", settings.system, row),
            attachments=self._attachments.load(row) if self._attachments else (),
            options=settings.options,
            api_format=settings.api_format,
            response_format=self._format,
        )

    def most(self, inputs: Mapping[str, Any]) -> CostBound:
        """Return what a request may cost; log once when that is not certain, or is what the model can write at most."""
        if self._settings.budgeted:
            known = request_bound(self._settings.model, inputs, self._prices or {})
            bound = CostBound(usd=known.micros / 1_000_000, certain=True, assumed_cap=known.assumed_cap)
        else:
            bound = cost_bound(self._settings.model, inputs, prices=self._prices)
            limit = self._settings.max_cost
            if bound.assumed_cap is not None and limit is not None and limit < FEWEST_REQUESTS * bound.usd:
                return self._estimated(bound, limit)
        if bound.assumed_cap is not None and not self._assumption_logged:
            self._assumption_logged = True
            self._log.warning(
                "The requests have no output cap%s. %d tokens of output, %s with the input, are reserved for each. An "
                "output cap ('max_tokens' in the options) leaves more for other requests",
                *(_assumption(self._settings.model, bound), bound.assumed_cap, format_usd(bound.usd)),
            )
        if not bound.certain and bound.assumed_cap is None and not self._uncertainty_logged:
            self._uncertainty_logged = True
            self._log.info(
                "max_cost=%s is enforced only approximately, using the mean cost of earlier rows; requests in flight "
                "may exceed it: %s. With a known price and an output cap (max_tokens in the options, or "
                "max_output_tokens with the price) it is enforced exactly.",
                format_usd(self._settings.max_cost),
                _why_uncertain(bound),
            )
        return bound

    def _estimated(self, bound: CostBound, limit: float) -> CostBound:
        if not self._assumption_logged:
            self._assumption_logged = True
            self._log.warning(
                "The requests have no output cap%s. With %d tokens of output, %s with the input, max_cost=%s would "
                "cover fewer than %d of them, so it is enforced approximately, using the highest bill so far. With an "
                "output cap ('max_tokens' in the options) it is enforced exactly",
                *(
                    _assumption(self._settings.model, bound),
                    bound.assumed_cap,
                    format_usd(bound.usd),
                    format_usd(limit),
                ),
                FEWEST_REQUESTS,
            )
        return bound.without_output()

    def read(self, reply: RowReply) -> RowVerdict:
        """Accept a reply, refuse it, or follow up, which is paid for as well, if that may get a usable one."""
        settings = self._settings
        chat_reply = read_reply(reply.result.to_json(), model=settings.model, api_format=settings.api_format)
        parsed = settings.output_type.parse(chat_reply.text) if settings.output_type else None
        decision = decide_reply(
            chat_reply,
            parsed,
            first=reply.first,
            sent=lambda: reply.sent,
            follow_ups=reply.follow_ups,
            max_repairs=settings.max_repairs,
        )
        if isinstance(decision, Accept):
            clean = clean_value(decision.result)
            self._warn_of_characters(clean.replaced or (parsed.replaced if parsed else 0))
            decision = Accept(self._columns_of(clean.value))
        return RowVerdict(decision, chat_reply.usage.total_tokens)

    def _warn_of_characters(self, replaced: int) -> None:
        if replaced and not self._characters_logged:
            self._characters_logged = True
            self._log.warning(
                "An answer contains NUL or an unpaired surrogate, which databases and files refuse; such characters "
                "become U+FFFD, here and in later rows"
            )

    def _columns_of(self, data: Any) -> dict[str, Any]:
        if not self._fields:
            return {ANSWER_COLUMN: data}
        return {name: data.get(name) for name in self._fields}


def _filled(name: str, template: str, row: Row) -> str:
    """
    Fill the placeholders of a message.

    :raises SegmindRowError: a column is missing or could not be decoded, or all of the message is in columns that are
        empty.
    """
    text = row.fill(template)
    if not text.strip():
        raise SegmindRowError(f"The {name} of row {row.number} is empty. Nothing was sent for this row.")
    return text


def _assumption(model: str, bound: CostBound) -> str:
    if bound.certain:
        return f", so model {model!r} may write up to its output limit"
    return f", and the output limit of model {model!r} is not known"


def _why_uncertain(bound: CostBound) -> str:
    if bound.doubt:
        return f"the cost of {shorten(bound.doubt, 100)!r} is not known"
    return "a request has no upper bound" if bound.usd else "the price of a request to the model is not known"
