"""What an enrichment may cost, before any of it is paid."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.budget.usage import window_uses
from airflow_provider_segmind.chat.cost_estimate import Price, estimate_cost, estimate_input_tokens
from airflow_provider_segmind.chat.reply_policy import output_cap_of
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.local_database import LocalDatabase
from airflow_provider_segmind.enrichment.question import Prepared, Question
from airflow_provider_segmind.enrichment.row_reader import build, is_fatal, numbered
from airflow_provider_segmind.enrichment.settings import KeyedTarget, Shard
from airflow_provider_segmind.enrichment.work_queue import is_sent_again
from airflow_provider_segmind.exceptions import SegmindError
from airflow_provider_segmind.money import format_usd, format_usd_range
from airflow_provider_segmind.wording import counted

if TYPE_CHECKING:
    from airflow_provider_segmind.budget.guard import BudgetSettings
    from airflow_provider_segmind.defaults import Rerun
    from airflow_provider_segmind.enrichment.storage import StorePath
    from airflow_provider_segmind.execution.file_table import TableIO
    from airflow_provider_segmind.hooks.segmind import SegmindHook


def estimate_table(
    question: Question,
    table: TableIO,
    *,
    hook: SegmindHook,
    shard: Shard,
    sample: int | None,
    rerun: frozenset[Rerun],
    budgets: BudgetSettings,
    log: Any,
) -> dict[str, Any]:
    """
    Estimate what an enrichment may cost. Free: nothing is submitted, nothing is written. Closes the table.

    :returns: ``model``, ``rows``, ``distinct_rows``, ``answered_rows`` (distinct ones with an answer in the ledger or
        the target, which cost nothing), ``final_rows`` (distinct ones without an answer that ``rerun`` does not send
        again), ``skipped_rows`` (they cannot be sent), ``input_tokens``, ``low`` and ``high``
        (USD, None where the price is unknown), ``balance`` (USD), ``covered`` (by the balance), and ``budget_left``
        (USD left now in the budget with the least room, None without one).
    :raises SegmindConfigError: the request cannot be built for the first row, or there is no such source.
    """
    try:
        estimate = _estimate(question, table, hook=hook, shard=shard, sample=sample, rerun=rerun)
    finally:
        table.close()
    estimate.budget_left = _budget_left(budgets)
    log.info("%s", estimate)
    if estimate.covered is False:
        log.warning("The balance of %s does not cover what the table may cost", format_usd(estimate.balance))
    if estimate.high is not None and estimate.budget_left is not None and estimate.budget_left < estimate.high:
        log.warning("The budget has %s left, less than the table may cost", format_usd(estimate.budget_left))
    return asdict(estimate)


def _budget_left(budgets: BudgetSettings) -> float | None:
    if budgets.store is None or not budgets.rules:
        return None
    return min(use.left for use in window_uses(budgets.store, budgets.rules, time.time())) / 1_000_000


def _estimate(
    question: Question,
    table: TableIO,
    *,
    hook: SegmindHook,
    shard: Shard,
    sample: int | None,
    rerun: frozenset[Rerun],
) -> TableEstimate:
    target = table.prepare(dry=True)
    estimate = TableEstimate(question.model)
    ledger = _ledger(table.ledger)
    try:
        prices = hook.get_prices()
        rows = islice(table.rows(), sample)
        for prepared in _distinct(rows, question, shard=shard, target=target, estimate=estimate):
            if ledger is not None and ledger.row_state(prepared.fingerprint).success:
                estimate.answered_rows += 1
            elif ledger is not None and _is_final(ledger, prepared.fingerprint, rerun):
                estimate.final_rows += 1
            else:
                estimate.add(prepared.inputs, prices)
        estimate.balance = hook.get_balance()
    finally:
        if ledger is not None:
            ledger.close()
    if estimate.balance is not None and estimate.high is not None:
        estimate.covered = estimate.balance >= estimate.high
    return estimate


@dataclass(slots=True)
class TableEstimate:
    """The result of :func:`estimate_table`."""

    model: str
    rows: int = 0
    distinct_rows: int = 0
    answered_rows: int = 0
    final_rows: int = 0
    skipped_rows: int = 0
    input_tokens: int = 0
    low: float | None = 0.0
    high: float | None = 0.0
    balance: float | None = None
    covered: bool | None = None
    budget_left: float | None = None

    def __str__(self) -> str:
        cost = "of unknown price" if self.low is None else format_usd_range(self.low, self.high)
        if self.covered:
            cost += f", which the balance of {format_usd(self.balance)} covers"
        return (
            f"{counted(self.rows, 'row')}, {self.distinct_rows:,} distinct, {self.answered_rows:,} already answered, "
            f"{self.final_rows:,} without an answer that are not sent again, {self.skipped_rows:,} that cannot be "
            f"sent; about {self.input_tokens:,} input tokens, {cost}. Nothing was submitted"
        )

    def add(self, inputs: Mapping[str, Any], prices: Mapping[str, Price] | None) -> None:
        """Add a request that would be paid for."""
        tokens = estimate_input_tokens(inputs).tokens
        self.input_tokens += tokens
        cost = estimate_cost(self.model, input_tokens=tokens, output_cap=output_cap_of(inputs), prices=prices)
        self.low = None if self.low is None or cost is None else self.low + cost.low
        self.high = None if self.high is None or cost is None or cost.high is None else self.high + cost.high


def _distinct(
    rows: Iterator[Mapping[str, Any]],
    question: Question,
    *,
    shard: Shard,
    target: KeyedTarget | None,
    estimate: TableEstimate,
) -> Iterator[Prepared]:
    """Yield each distinct question of this shard once, and count rows in the estimate."""
    # As in a run, where a row without a question belongs to the first shard.
    counts_skipped = int(shard.index == 0)
    seen = LocalDatabase("CREATE TABLE seen (fingerprint BLOB PRIMARY KEY) WITHOUT ROWID")
    for row in numbered(rows, question):
        built = build(row, question)
        _, key, prepared = built
        if isinstance(prepared, SegmindError):
            if is_fatal(built):
                raise prepared
            estimate.skipped_rows += counts_skipped
            continue
        if target is not None and target.trouble(key, row.number):
            estimate.skipped_rows += counts_skipped
            continue
        if not shard.owns(prepared.fingerprint):
            continue
        estimate.rows += 1
        if seen.change("INSERT OR IGNORE INTO seen VALUES (?)", prepared.fingerprint):
            estimate.distinct_rows += 1
            if target is not None and target.has_answer(key, prepared.fingerprint):
                estimate.answered_rows += 1
            else:
                yield prepared


def _is_final(ledger: Ledger, fingerprint: bytes, rerun: frozenset[Rerun]) -> bool:
    """Return whether a row keeps an outcome without an answer."""
    state, stored = ledger.row_state(fingerprint), ledger.finished(fingerprint)
    return state.open is None and state.finished and stored is not None and not is_sent_again(stored, rerun)


def _ledger(folder: StorePath) -> Ledger | None:
    """Read the ledger of earlier runs, None when there is none."""
    if not folder.exists():
        return None
    ledger = Ledger(folder, run="dry-run", writer="dry-run")
    ledger.replay()
    return ledger
