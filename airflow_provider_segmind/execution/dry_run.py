"""What a table may cost, before any of it is paid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.chat.cost_estimate import Price, estimate_cost, estimate_input_tokens
from airflow_provider_segmind.chat.reply_policy import output_cap_of
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.local_index import CompactIndex
from airflow_provider_segmind.enrichment.row_reader import build, is_fatal, numbered
from airflow_provider_segmind.enrichment.settings import KeyedTarget, Prepared, Question, Shard
from airflow_provider_segmind.exceptions import SegmindError
from airflow_provider_segmind.execution.row_prompt import row_question

if TYPE_CHECKING:
    from airflow_provider_segmind.enrichment.storage import StorePath
    from airflow_provider_segmind.execution.file_table import Ends
    from airflow_provider_segmind.operators.enrich import SegmindEnrichOperator


def foresee_table(task: SegmindEnrichOperator) -> dict[str, Any]:
    """
    Say what asking about a table may cost. Free: nothing is submitted, nothing is written.

    :returns: ``model``, ``rows``, ``distinct_rows``, ``answered_rows`` (distinct ones that the ledger or the target
        knows and that cost nothing), ``skipped_rows`` (they cannot be asked), ``input_tokens``, ``low`` and ``high``
        (USD, None where nobody knows the price), ``balance`` (USD) and ``covered``.
    :raises SegmindConfigError: the question cannot be built for the first row, or there is no such source.
    """
    question = row_question(task)
    ends = task.ends(question)
    try:
        return _foresee(task, ends, question)
    finally:
        ends.close()


def _foresee(task: SegmindEnrichOperator, ends: Ends, question: Question) -> dict[str, Any]:
    target = ends.prepare(dry=True)
    foreseen = Foreseen(question.model)
    ledger = _ledger(ends.ledger)
    try:
        prices = task.hook.get_prices()
        for prepared in _distinct(task, ends, question, foreseen, target):
            if ledger is not None and ledger.standing(prepared.fingerprint).success:
                foreseen.answered_rows += 1
            else:
                foreseen.add(prepared.inputs, prices)
        foreseen.balance = task.hook.get_balance()
    finally:
        if ledger is not None:
            ledger.close()
    if foreseen.balance is not None and foreseen.high is not None:
        foreseen.covered = foreseen.balance >= foreseen.high
    task.log.info("%s", foreseen)
    if foreseen.covered is False:
        task.log.warning("The balance of %.6f USD does not cover what the table may cost", foreseen.balance)
    return asdict(foreseen)


@dataclass(slots=True)
class Foreseen:
    """What was counted; see :func:`foresee_table`."""

    model: str
    rows: int = 0
    distinct_rows: int = 0
    answered_rows: int = 0
    skipped_rows: int = 0
    input_tokens: int = 0
    low: float | None = 0.0
    high: float | None = 0.0
    balance: float | None = None
    covered: bool | None = None

    def __str__(self) -> str:
        cost = "of unknown price" if self.low is None else f"at least {self.low:.6f} USD"
        if self.high is not None:
            cost = f"{self.low:.6f} to {self.high:.6f} USD"
        return (
            f"{self.rows} rows, {self.distinct_rows} distinct, {self.answered_rows} answered before, "
            f"{self.skipped_rows} that cannot be asked; about {self.input_tokens} tokens to read, {cost}. Nothing was "
            "submitted"
        )

    def add(self, inputs: Mapping[str, Any], prices: Mapping[str, Price] | None) -> None:
        """Add a request that would be paid."""
        tokens = estimate_input_tokens(inputs).tokens
        self.input_tokens += tokens
        cost = estimate_cost(self.model, input_tokens=tokens, output_cap=output_cap_of(inputs), prices=prices)
        self.low = None if self.low is None or cost is None else self.low + cost.low
        self.high = None if self.high is None or cost is None or cost.high is None else self.high + cost.high


def _distinct(
    task: SegmindEnrichOperator, ends: Ends, question: Question, foreseen: Foreseen, target: KeyedTarget | None
) -> Iterator[Prepared]:
    """Yield each question of this shard once, and count rows."""
    shard = Shard(index=task.shard_index, count=task.shard_count)
    # As in a run, where a row without a question belongs to the first shard.
    counts_skipped = int(shard.index == 0)
    seen = CompactIndex()
    for row in numbered(islice(ends.rows(), task.sample), question):
        built = build(row, question)
        _, key, prepared = built
        if isinstance(prepared, SegmindError):
            if is_fatal(built):
                raise prepared
            foreseen.skipped_rows += counts_skipped
            continue
        if target is not None and target.trouble(key, row.number):
            foreseen.skipped_rows += counts_skipped
            continue
        if not shard.owns(prepared.fingerprint):
            continue
        foreseen.rows += 1
        if not seen.get(prepared.fingerprint):
            seen.put(prepared.fingerprint, 1)
            foreseen.distinct_rows += 1
            if target is not None and target.holds(key, prepared.fingerprint):
                foreseen.answered_rows += 1
            else:
                yield prepared


def _ledger(folder: StorePath) -> Ledger | None:
    """Read the ledger of earlier runs, None when there is none."""
    if not folder.exists():
        return None
    ledger = Ledger(folder, run="dry-run", writer="dry-run")
    ledger.replay()
    return ledger
