"""A row becomes the inputs of a request, with its attachments; its reply becomes columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.arguments import (
    answer_columns,
    as_inputs,
    check_row_question,
    fields_of,
    path_text,
    read_output_type,
)
from airflow_provider_segmind.chat import reply_policy as repairs
from airflow_provider_segmind.chat.attachments import MAX_INLINE_BYTES, FilePart, file_block, load_file
from airflow_provider_segmind.chat.cost_estimate import CostBound, cost_bound
from airflow_provider_segmind.chat.json_values import cleaned
from airflow_provider_segmind.chat.messages import build_chat_inputs
from airflow_provider_segmind.chat.model_families import ApiFormat, family_of
from airflow_provider_segmind.chat.replies import read_reply
from airflow_provider_segmind.defaults import ANSWER_COLUMN
from airflow_provider_segmind.enrichment.outcomes import Accept, AskAgain, Outcome, Refuse, Reply, Verdict
from airflow_provider_segmind.enrichment.rows import Row, placeholders
from airflow_provider_segmind.enrichment.settings import Question
from airflow_provider_segmind.enrichment.storage import StorePath, is_on_local_disk
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindRowError, shorten
from airflow_provider_segmind.execution.file_table import locate
from airflow_provider_segmind.rendering import unmasked

if TYPE_CHECKING:
    from airflow_provider_segmind.operators.enrich import SegmindEnrichOperator


_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_UNSEEN = str.maketrans("", "", "\t\r\n")
"""What a URL is read without, wherever it stands."""
_UNREADABLE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class RowFiles:
    """
    The files of each row.

    :param templates: paths, object storage URIs or http(s) addresses, with ``{column}`` placeholders.
    :param family: the form in which the model takes files.
    :param limit: bytes of the largest file that may travel inside a request.
    """

    def __init__(self, templates: Sequence[str], family: ApiFormat, *, limit: int = MAX_INLINE_BYTES) -> None:
        self._templates = tuple(templates)
        self._family = family
        self._limit = limit
        self._fixed: dict[str, FilePart] = {}

    def load(self, row: Row) -> list[FilePart]:
        """
        Load the files of a row; http(s) addresses are left to the model's provider. Blocks.

        :raises SegmindRowError: one is missing, too large, or of a type the model does not take. Nothing was sent.
        :raises SegmindConfigError: a column is missing; names it.
        :raises OSError: a store cannot be reached, which is not the same as a missing file.
        """
        return [self._load(row, f"files[{index}]", template) for index, template in enumerate(self._templates)]

    def _load(self, row: Row, name: str, template: str) -> FilePart:
        if template not in self._fixed:
            part = self._loaded(row, name, template)
            if _PLACEHOLDER.search(template):
                return part
            self._fixed[template] = part
        return self._fixed[template]

    def _loaded(self, row: Row, name: str, template: str) -> FilePart:
        whole = _PLACEHOLDER.fullmatch(template)
        value = row.values.get(whole[1]) if whole else None
        source = bytes(value) if isinstance(value, bytes | bytearray | memoryview) else row.fill(template)
        try:
            part = load_file(
                source,
                read=lambda address: self._read(address, name, template),
                max_inline_bytes=self._limit,
                field_name=name,
            )
            # A byte stands for the file, which need not be encoded to see whether its type is taken.
            file_block(part if part.data is None else replace(part, data=b"."), self._family)
        except SegmindConfigError as error:
            raise SegmindRowError(f"{error} Nothing was sent for this row.") from error
        return part

    def _read(self, address: str, name: str, template: str) -> bytes:
        _check_reach(address, name, template)
        try:
            path = locate(address)
        except (ValueError, ImportError) as error:
            raise SegmindRowError(
                f"{name} is in no store that Airflow knows here: {shorten(str(error), 80)}."
            ) from error
        _check_store(path, name, template)
        shown = f"{name} ({shorten(path.name, 80)!r})"
        try:
            with path.open("rb") as file:
                # One byte more than may be sent tells that it is too large, however large it is.
                data: bytes = file.read(self._limit + 1)
        except _UNREADABLE as error:
            why = "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {type(error).__name__}"
            raise SegmindRowError(f"{shown} {why}.") from error
        if len(data) > self._limit:
            raise SegmindRowError(
                f"{shown} has more than the {self._limit} bytes that may travel inside a request: give its http(s) "
                "address, or make it smaller."
            )
        return data


def _check_reach(address: str, name: str, template: str) -> None:
    """
    Check that a row names no file but those its template is for.

    :raises SegmindRowError: it does.
    """
    if not _PLACEHOLDER.search(template):
        return
    read_as = address.translate(_UNSEEN)
    if any(".." in re.split(r"[/\\]", each) for each in (address, read_as)):
        raise SegmindRowError(f"{name} leaves its folder by '..'.")
    if "@" in read_as.partition("://")[2].partition("/")[0] and "@" not in _PLACEHOLDER.split(template)[0]:
        raise SegmindRowError(f"{name} names a Connection, which a row may not: write it into the template.")


def _check_store(path: StorePath, name: str, template: str) -> None:
    """
    Check that a row that names the store does not name the worker's own disk, however that is spelled.

    :raises SegmindRowError: it does.
    """
    if _PLACEHOLDER.match(template.lstrip()) and is_on_local_disk(path):
        raise SegmindRowError(
            f"{name} names a file of the worker itself, which a row may not: write its folder into the template, as in "
            "files=['/data/photos/{name}']."
        )


FILES_ABREAST = 4
"""Rows whose files are loaded at the same time, because a store takes tens of milliseconds for each."""


def row_question(task: SegmindEnrichOperator) -> Question:
    """
    Return what is asked of each row.

    :raises SegmindConfigError: it cannot work; nothing was sent.
    """
    check_row_question(
        prompt=unmasked(task.prompt),
        system=unmasked(task.system),
        inputs=None if task.inputs is None else as_inputs(unmasked(task.inputs)),
        options=task.options,
        api_format=task.api_format,
        model=task.hook.model_or_default(task.model),
        files=task.files,
    )
    asked = RowQuestion(task)
    return Question(
        model=asked.model,
        build=asked.build,
        read=asked.read,
        key=(task.key,) if isinstance(task.key, str) else tuple(task.key),
        answer_columns=asked.columns,
        placeholders=asked.placeholders,
        schema=asked.output_type.schema if asked.output_type else None,
        abreast=FILES_ABREAST if task.files else 1,
        **({} if task.max_cost is None else {"most": asked.most}),
    )


class RowQuestion:
    """
    Builds the question about a row, and reads its answer.

    :param task: the operator, its fields rendered.
    """

    def __init__(self, task: SegmindEnrichOperator) -> None:
        self._task = task
        self._inputs = None if task.inputs is None else as_inputs(unmasked(task.inputs))
        self._prompt, self._system = str(unmasked(task.prompt)), unmasked(task.system)
        self._prices = None if task.max_cost is None else task.hook.get_prices()
        self._told = False
        self._format: dict[str, Any] | None = None
        files = [path_text(file) for file in task.files or ()]
        self._warned = False
        self.model = task.hook.model_or_default(task.model)
        self.output_type = read_output_type(task.output_type)
        self.placeholders = placeholders([unmasked(task.prompt), self._system, self._inputs, files])
        self.columns = answer_columns(self.output_type)
        self._fields = fields_of(self.output_type)
        self._files = RowFiles(files, family_of(self.model, task.api_format)) if files else None
        if self.output_type is not None and self._inputs is None:
            self._format = self.output_type.response_format(family_of(self.model, task.api_format))

    def build(self, row: Row) -> Mapping[str, Any]:
        """
        Build the body for a row.

        :raises SegmindConfigError: a column is missing, or what stands in it cannot be sent.
        :raises OSError: a store of files cannot be reached.
        """
        task = self._task
        if self._inputs is not None:
            filled: Mapping[str, Any] = row.fill_inputs(self._inputs)
            return filled
        return build_chat_inputs(
            model=self.model,
            prompt=row.fill(self._prompt),
            system=None if self._system is None else row.fill(self._system),
            files=self._files.load(row) if self._files else (),
            options=task.options,
            api_format=task.api_format,
            response_format=self._format,
        )

    def most(self, inputs: Mapping[str, Any]) -> CostBound:
        """Return what a request may cost, for ``max_cost``; say once when that is not certain."""
        bound = cost_bound(self.model, inputs, prices=self._prices)
        if not bound.certain and not self._told:
            self._told = True
            self._task.log.info(
                "max_cost=%s USD rests on the mean cost of the rows before and can be passed by what is in flight: %s. "
                "With the model's price known and an output cap in the options (max_tokens) it is kept exactly.",
                self._task.max_cost,
                "the price of a request to the model is not known" if not bound.usd else "a request has no upper bound",
            )
        return bound

    def read(self, reply: Reply) -> Verdict:
        """Decide what an answer is worth, and whether asking again, which is paid as well, may mend it."""
        said = read_reply(reply.result.to_json(), model=self.model, api_format=self._task.api_format)
        tokens = said.usage.total_tokens
        left = self._task.max_repairs - (reply.attempt - 1)
        cap = repairs.output_cap_of(reply.inputs)
        if reply.attempt > 1 and said.usage.output_tokens:
            # An earlier question may have been given more room than the first.
            cap = max(cap or 0, said.usage.output_tokens)
        parsed = self.output_type.parse(said.text) if self.output_type else None
        decision = repairs.decide(
            said,
            parsed,
            repairs_left=left if "messages" in reply.inputs else 0,
            truncation_retries_left=left,
            output_cap=cap,
        )
        if isinstance(decision, repairs.Accept):
            carried = cleaned(decision.result)
            self._warn_of_characters(carried.replaced or (parsed.replaced if parsed else 0))
            return Accept(self._columns_of(carried.value), tokens)
        if isinstance(decision, repairs.AskAgainLarger):
            return AskAgain(repairs.enlarge_inputs(reply.inputs, decision.cap), "the answer was cut off", tokens)
        if isinstance(decision, repairs.Repair):
            return AskAgain(repairs.repair_inputs(reply.inputs, decision), "not the data asked for", tokens)
        outcome = Outcome.INVALID if decision.reason == "empty" else Outcome(decision.reason)
        return Refuse(outcome, decision.detail, tokens)

    def _warn_of_characters(self, replaced: int) -> None:
        if replaced and not self._warned:
            self._warned = True
            self._task.log.warning(
                "An answer contains NUL or half a surrogate pair, which databases and files refuse; such characters "
                "become U+FFFD, here and in later rows"
            )

    def _columns_of(self, data: Any) -> dict[str, Any]:
        if not self._fields:
            return {ANSWER_COLUMN: data}
        return {name: data.get(name) for name in self._fields}
