"""Put together what the shards of a table task did."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_segmind.arguments import check_flag, is_given_later
from airflow_provider_segmind.compat import BaseOperator
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.links import SegmindOutputLink
from airflow_provider_segmind.operators import tables
from airflow_provider_segmind.rendering import TemplatedOperator

if TYPE_CHECKING:
    from airflow_provider_segmind.bulk.manifest import Manifest
    from airflow_provider_segmind.compat import Context


class SegmindMergeOperator(TemplatedOperator, BaseOperator):
    """
    Add up the manifests of all shards of a table task, make sure that no row is missing, and put their files together.

    Put it after ``.expand(shard_index=[…])``. It asks nothing and costs nothing; a retry does the same again.

    **XCom**: one manifest for the whole table, in the form that a single task returns. With an ``output_path`` it
    stands beside the output as well, with the report and the dead letters of all shards.

    **Templated**: ``manifests``, ``output_path``.

    :param manifests: what the shards returned: the ``output`` of the mapped task.
    :param output_path: the table to write, ``.jsonl``, ``.csv`` or ``.parquet``: all rows in the order of the source.
        Better in the format of the shards' files, as CSV knows texts only. None to write nothing, as for shards that
        answer into one table of a database.
    :param report: write a report with charts beside the output.
    :raises AirflowFailException: a shard or a row is missing, or the shards are not of one run; nothing was written.
    """

    template_fields: Sequence[str] = ("manifests", "output_path")
    late_fields: ClassVar[Sequence[str]] = ("report",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"manifests": "json"}
    ui_color = "#e3f1ff"
    operator_extra_links = (SegmindOutputLink(),)

    def __init__(
        self,
        *,
        manifests: Any,
        output_path: str | os.PathLike[str] | None = None,
        report: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if manifests is None or isinstance(manifests, bytes):
            raise SegmindConfigError(
                "'manifests' is missing: give it the output of the mapped task, such as shards.output."
            )
        if output_path is not None:
            tables.check_output_path(output_path)
        self.manifests = manifests
        self.output_path = output_path
        self.report = report
        self.result_uri: str | None = None
        self.check_arguments()
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check what has a choice."""
        check_flag("report", self.report)

    def finish_rendering(self) -> None:
        """Take the manifests out of what Airflow hands on for a mapped task."""
        if not isinstance(self.manifests, Mapping | str) and not is_given_later(self.manifests):
            self.manifests = list(self.manifests)

    def execute(self, context: Context) -> dict[str, Any]:
        """Merge, write what is asked for, and return the manifest of the whole table."""
        from airflow_provider_segmind.bulk.manifest import merge
        from airflow_provider_segmind.failures import task_failures

        with task_failures():
            self.check_rendered()
            manifest = merge(read_manifests(self.manifests))
            if self.output_path is not None:
                self._write(manifest)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in manifest.outcomes.items() if count)
        self.log.info("%d rows of all shards: %s; %.6f USD", manifest.rows_read, counts or "none", manifest.cost)
        return manifest.to_json()

    def _write(self, manifest: Manifest) -> None:
        from airflow_provider_segmind.bulk.formats import kind_of
        from airflow_provider_segmind.bulk.joining import join_dead_letters, join_outputs
        from airflow_provider_segmind.operators.reporting import add_report
        from airflow_provider_segmind.operators.tables import beside, locate

        output = locate(self.output_path)
        dead_letters = beside(output, "dead_letters", ending=".jsonl")
        parts = [locate(part) for part in manifest.outputs]
        tables_of_databases = [part for part in manifest.outputs if kind_of(part) is None]
        if tables_of_databases:
            raise SegmindConfigError(
                f"The shards answered into {', '.join(tables_of_databases)} and not into files: the rows are together "
                "already. Leave out 'output_path'."
            )
        if any(str(part) == str(output) for part in parts):
            raise SegmindConfigError(f"'output_path' {str(output)!r} is the output of a shard: its rows would be lost.")
        manifest.columns = join_outputs(manifest, parts, output)
        join_dead_letters([locate(part) for part in manifest.dead_letters], dead_letters)
        manifest.outputs, manifest.dead_letters = [str(output)], [str(dead_letters)]
        place = beside(output, "manifest", ending=".json")
        manifest.write(place)
        self.result_uri = str(output)
        add_report(manifest, place, wanted=self.report, log=self.log)


def read_manifests(given: Any) -> list[Manifest]:
    """
    Read what the shards returned.

    :raises SegmindConfigError: it is no manifest.
    """
    from airflow_provider_segmind.bulk.manifest import Manifest

    items = [given] if isinstance(given, Mapping) else given
    if not isinstance(items, list | tuple) or not all(isinstance(item, Mapping) for item in items):
        raise SegmindConfigError(
            "'manifests' holds something else than manifests: give it the output of the mapped task. Was it "
            "'dry_run', or was its XCom not pushed?"
        )
    if any("shard_count" not in item for item in items):
        raise SegmindConfigError("'manifests' holds estimates of a 'dry_run' and no manifests.")
    return [Manifest.from_json(item) for item in items]
