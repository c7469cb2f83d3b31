"""The question of a table task: the body for a row, and what an answer is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.api import repairs
from airflow_provider_segmind.api.chat import build_chat_inputs
from airflow_provider_segmind.api.families import family_of
from airflow_provider_segmind.api.json_values import cleaned
from airflow_provider_segmind.api.pricing import CostBound, cost_bound
from airflow_provider_segmind.api.replies import read_reply
from airflow_provider_segmind.arguments import as_inputs, path_text
from airflow_provider_segmind.bulk.plan import Question
from airflow_provider_segmind.bulk.rows import Row, placeholders
from airflow_provider_segmind.bulk.verdicts import Accept, AskAgain, Outcome, Refuse, Reply, Verdict
from airflow_provider_segmind.operators.questions import read_output_type
from airflow_provider_segmind.operators.row_files import RowFiles
from airflow_provider_segmind.operators.tables import ANSWER_COLUMN, answer_columns, check_question, fields_of
from airflow_provider_segmind.rendering import unmasked

if TYPE_CHECKING:
    from airflow_provider_segmind.operators.enrich_rows import SegmindEnrichOperator

FILES_ABREAST = 4
"""Rows whose files are loaded at the same time, because a store takes tens of milliseconds for each."""


def row_question(task: SegmindEnrichOperator) -> Question:
    """
    Return what is asked of each row.

    :raises SegmindConfigError: it cannot work; nothing was sent.
    """
    check_question(
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
