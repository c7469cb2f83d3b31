"""The operators of tables: a file in and out, a query into a table, and what shards of either leave put together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.operators import tables
from airflow_provider_segmind.operators.enrich_rows import SegmindEnrichOperator
from airflow_provider_segmind.operators.enrich_sql import SegmindEnrichSqlOperator
from airflow_provider_segmind.operators.merge import SegmindMergeOperator
from airflow_provider_segmind.operators.tables import TableRows

if TYPE_CHECKING:
    from airflow_provider_segmind.bulk.plan import Question
    from airflow_provider_segmind.operators.ends import Ends

__all__ = ["SegmindEnrichFileOperator", "SegmindEnrichSqlOperator", "SegmindMergeOperator"]


class SegmindEnrichFileOperator(SegmindEnrichOperator):
    """
    Ask a model about every row of a file, and write a file of typed answers in the same order.

    What is asked, what it may cost, what a retry and a kill do: see
    :class:`~airflow_provider_segmind.operators.enrich_rows.SegmindEnrichOperator`, whose arguments it takes as well.

    **Templated** besides: ``source`` (a path; rows never) and ``output_path``.

    :param source: a path or ObjectStoragePath URI of JSONL, CSV or Parquet, a pattern (``*.jsonl``), a folder, or a
        list of these or of rows (dicts), which may come from XCom.
    :param key: the columns that name a row; they stand in the output.
    :param output_path: the table to write: ``.jsonl``, ``.csv`` or ``.parquet``. Rows without an answer are listed
        beside it in ``….dead_letters.jsonl``, the manifest is ``….manifest.json``.
    :param ledger_path: folder of the ledger; ``_segmind_ledger`` beside the output when None. Runs that share it share
        answers.
    :raises AirflowFailException: where a retry cannot help; what was answered is written by then.
    """

    template_fields: Sequence[str] = ("source", *SegmindEnrichOperator.template_fields, "output_path")

    def __init__(
        self,
        *,
        source: Any,
        key: str | Sequence[str],
        output_path: str | os.PathLike[str],
        ledger_path: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(key=key, ledger_path=ledger_path, **kwargs)
        tables.check_places(source=source, output_path=output_path)
        self.source = TableRows.hide(source)
        self.output_path = output_path

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Begin a mapped task; rows given as such are kept out of the serialised DAG."""
        if "source" in kwargs:
            kwargs["source"] = TableRows.hide(kwargs["source"])
        return super().partial(**kwargs)

    def finish_rendering(self) -> None:
        """Keep rows that came out of XCom from being stored as a rendered field."""
        self.source = TableRows.hide(self.source)

    def ends(self, question: Question) -> Ends:
        """Return the files."""
        from airflow_provider_segmind.operators.ends import FileEnds

        return FileEnds(self, question)
