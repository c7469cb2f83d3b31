"""
The OpenLineage event of a table: its datasets, columns and figures.

The OpenLineage provider calls this when a task starts, succeeds or fails; without it nothing here is imported. Names
of datasets follow its naming specification (https://openlineage.io/docs/spec/naming).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from openlineage.client.event_v2 import InputDataset, OutputDataset
from openlineage.client.facet_v2 import (
    JobFacet,
    RunFacet,
    column_lineage_dataset,
    output_statistics_output_dataset,
    schema_dataset,
    sql_job,
)

from airflow_provider_segmind import __version__
from airflow_provider_segmind.arguments import TableRows
from airflow_provider_segmind.compat import OperatorLineage, SQLParser
from airflow_provider_segmind.enrichment.files.readers import declared_types
from airflow_provider_segmind.enrichment.sql.dialects import TableName, dialect_of
from airflow_provider_segmind.enrichment.sql.statements import OWN_COLUMNS
from airflow_provider_segmind.enrichment.sql.table_schema import read_columns
from airflow_provider_segmind.execution.file_table import locate_named, path_of_part, source_paths
from airflow_provider_segmind.execution.sql_table import SAMPLE_ENDING, answer_kinds
from airflow_provider_segmind.money import micros
from airflow_provider_segmind.stores import database

if TYPE_CHECKING:
    from airflow_provider_segmind.chat.output_type import OutputType
    from airflow_provider_segmind.enrichment.manifest import Manifest
    from airflow_provider_segmind.enrichment.question import Question
    from airflow_provider_segmind.enrichment.settings import Shard

log = logging.getLogger(__name__)
PRODUCER = f"pkg:pypi/airflow-provider-segmind@{__version__}"
FACET = "segmind_table"
MOST_INPUTS = 100
Known = TypeVar("Known")
_SCHEMES = {"s3a": "s3", "gcs": "gs", "local": "file"}
_DEFAULT_SCHEMAS = {"sqlite": "main", "duckdb": "main"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A file or a table."""

    namespace: str
    name: str


TypesByColumn = Mapping[str, str | None]
"""Columns with their types, where known."""
NOTHING_KNOWN: TypesByColumn = {}
Origins = Callable[[str], Iterable[tuple[Dataset, str]]]
"""Returns the columns of the inputs that a column of the source comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """
    The datasets of a task.

    :param size: returns the bytes of the output.
    :param source_types: returns the types of the source's columns, as the source declares them. Blocks.
    :param schemas: returns the schema of each input of a query, as its database declares it. Blocks.
    :param output_types: returns the types of the output's columns likewise. Blocks.
    """

    inputs: Sequence[Dataset]
    output: Dataset | None
    origins: Origins
    sql: str | None = None
    size: Callable[[], int | None] = lambda: None
    source_types: Callable[[], TypesByColumn] = dict
    schemas: Callable[[], Sequence[TypesByColumn]] = tuple
    output_types: Callable[[], TypesByColumn] = dict


def file_tables(source: Any, output_path: Any, *, shard: Shard, sample: int | None) -> Tables:
    """Return the files of an enrichment; rows of a list are no dataset."""
    output = path_of_part(locate_named("output_path", output_path), shard, sample)
    paths = source_paths(TableRows.hide(source))
    tables = _files([file_dataset(str(path)) for path in paths], output)
    return replace(tables, source_types=partial(declared_types, paths[0])) if paths else tables


def merged_tables(parts: Iterable[str], output_path: Any) -> Tables:
    """Return the files of a merge."""
    return _files([file_dataset(part) for part in parts], locate_named("output_path", output_path))


def _files(inputs: Iterable[Dataset], output: Any) -> Tables:
    known = list(dict.fromkeys((one.namespace, one.name) for one in inputs))[:MOST_INPUTS]
    datasets = [Dataset(namespace=namespace, name=name) for namespace, name in known]

    def size() -> int | None:
        try:
            return int(output.stat().st_size)
        except OSError:
            return None

    return Tables(
        inputs=datasets,
        output=file_dataset(str(output)),
        origins=lambda column: [(dataset, column) for dataset in datasets],
        size=size,
    )


def file_dataset(address: str) -> Dataset:
    """Return the dataset of a file or a folder; that of a pattern is the folder in which all its matches are."""
    folder = re.split(r"[^/]*[*?\[]", address, maxsplit=1)[0] if re.search(r"[*?\[]", address) else address
    if "://" not in folder:
        return Dataset(namespace="file", name=os.path.abspath(folder))  # noqa: PTH100 - as text, without the disk
    parts = urlsplit(folder, allow_fragments=False)
    scheme = _SCHEMES.get(parts.scheme, parts.scheme)
    # The Connection, as in s3://aws_default@bucket/key, is not part of the name; an Azure container is.
    host = parts.netloc if scheme.startswith(("abfs", "wasb")) else parts.netloc.rpartition("@")[2]
    if scheme == "file":
        return Dataset(namespace=f"file://{host}" if host else "file", name=parts.path)
    return Dataset(namespace=f"{scheme}://{host}", name=parts.path.strip("/") or "/")


def sql_tables(*, sql_conn_id: str, sql: str, target_conn_id: str, target_table: str, sample: int | None) -> Tables:
    """Return the tables of an enrichment in a database; a query's are found by OpenLineage's parser."""
    source, target = Database.of(sql_conn_id, "sql_conn_id"), Database.of(target_conn_id, "target_conn_id")
    name = TableName.parse(target_table, "target_table")
    name = name if sample is None else name.beside(SAMPLE_ENDING)
    output = target.dataset(name.parts)
    output_types = partial(_schema_of_table, target_conn_id, name)
    read_whole = TableName.of_source(sql)
    if read_whole is not None:
        one = source.dataset(read_whole.parts)
        return Tables(
            inputs=[one],
            output=output,
            origins=lambda column: [(one, column)],
            source_types=partial(_schema_of_table, sql_conn_id, read_whole),
            output_types=output_types,
        )
    parsed = SQLParser(dialect=source.dialect, default_schema=source.schema).parse(sql)
    tables = {_parts(table): source.dataset(_parts(table)) for table in (parsed.in_tables if parsed else ())}
    inputs = list(tables.values())[:MOST_INPUTS]
    schemas = partial(_schemas_of_tables, sql_conn_id, [TableName(parts) for parts in tables][:MOST_INPUTS])
    columns: dict[str, list[tuple[Dataset, str]]] = {
        each.descendant.name: [
            (tables[_parts(one.origin)], one.name)
            for one in each.lineage
            if one.origin is not None and _parts(one.origin) in tables
        ]
        for each in (parsed.column_lineage if parsed else ())
    }

    def origins(column: str) -> list[tuple[Dataset, str]]:
        return columns.get(column) or ([(inputs[0], column)] if len(inputs) == 1 else [])

    return Tables(inputs=inputs, output=output, origins=origins, sql=sql, schemas=schemas, output_types=output_types)


def _schema_of_table(conn_id: str, name: TableName) -> TypesByColumn:
    return _schemas_of_tables(conn_id, [name])[0]


def _schemas_of_tables(conn_id: str, names: Sequence[TableName]) -> list[TypesByColumn]:
    """Ask the database for the columns of tables; none where its catalogue is not known here."""
    _, hook = database(conn_id, "sql_conn_id")
    with closing(hook.get_conn()) as connection:
        found = [read_columns(connection, dialect_of(hook.conn_type), name) or {} for name in names]
    return [{column.name: column.type or None for column in columns.values()} for columns in found]


def _parts(table: Any) -> tuple[str, ...]:
    return tuple(part for part in (table.database, table.schema, table.name) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """
    A database as datasets name it.

    :param database: the part of a name before the schema, None where there is none.
    :param schema: of tables without one.
    """

    namespace: str
    database: str | None
    schema: str | None
    dialect: str

    @classmethod
    def of(cls, conn_id: str, argument: str) -> Database:
        """Ask the hook of a Connection; not all hooks know OpenLineage."""
        connection, hook = database(conn_id, argument)
        dialect = hook.get_openlineage_database_dialect(connection)
        if (info := hook.get_openlineage_database_info(connection)) is not None:
            return cls(
                namespace=f"{info.scheme}://{info.authority}" if info.authority else info.scheme,
                database=info.database,
                schema=hook.get_openlineage_default_schema() or (None if info.database else connection.schema),
                dialect=dialect,
            )
        kind = hook.conn_type or connection.conn_type
        if kind in _DEFAULT_SCHEMAS:
            file = connection.host or ":memory:"
            place = file if file == ":memory:" else Path(file).absolute()
            return cls(namespace=f"{kind}://{place}", database=None, schema=_DEFAULT_SCHEMAS[kind], dialect=dialect)
        if kind == "gcpbigquery":
            return cls(namespace="bigquery", database=hook.project_id, schema=None, dialect="bigquery")
        port = f":{connection.port}" if connection.port else ""
        return cls(
            namespace=f"{kind}://{connection.host or ''}{port}",
            database=connection.schema,
            schema=None,
            dialect=dialect,
        )

    def dataset(self, parts: Sequence[str]) -> Dataset:
        """Return the dataset of a table."""
        missing = [self.database, self.schema][: max(0, 3 - len(parts))]
        return Dataset(namespace=self.namespace, name=".".join([*filter(None, missing), *parts]))


def on_start(tables: Tables) -> OperatorLineage[Any, Any]:
    """Return what is known before a task has run."""
    return _lineage(tables, outputs=[] if tables.output is None else [_output(tables.output, {})])


def on_end(
    tables: Tables,
    manifest: Manifest | None,
    *,
    question: Question | None = None,
    output_type: OutputType | None = None,
    source_columns: Sequence[str] = (),
) -> OperatorLineage[Any, Any]:
    """
    Return what is known after a try, whether it succeeded or not.

    :param manifest: what it wrote, None when it wrote nothing.
    :param question: what was sent for each row, None for a merge.
    :param source_columns: all columns of the source.
    """
    if manifest is None or tables.output is None:
        return _lineage(tables, outputs=[])
    kinds: dict[str, str | None] = {name: str(kind) for name, kind in OWN_COLUMNS.items()}
    if question is not None:
        kinds |= {name: str(kind) for name, kind in answer_kinds(output_type).items()}
    # Those of the answers, which are the same in every output, and those of the keys as the database has them.
    known = {**_known(tables.output_types, NOTHING_KNOWN), **kinds}
    facets: dict[str, Any] = {"schema": _schema({name: known.get(name) for name in manifest.columns})}
    if question is not None:
        asked = question.placeholders.intersection(source_columns)
        facets["columnLineage"] = _column_lineage(question, asked, tables.origins)
    output = _output(tables.output, facets)
    output.outputFacets = {
        "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=manifest.rows_read - manifest.rows_unchanged, size=tables.size()
        )
    }
    # A query need not select every column of its tables, so only a table read whole has the source's columns.
    schemas: Sequence[TypesByColumn] = ()
    if tables.sql is not None:
        schemas = _known(tables.schemas, ())
    elif source_columns:
        types = _known(tables.source_types, NOTHING_KNOWN)
        schemas = [{name: types.get(name) for name in source_columns}] * len(tables.inputs)
    return _lineage(tables, outputs=[output], schemas=schemas, run_facets={FACET: _figures(manifest)})


def _known(read: Callable[[], Known], unknown: Known) -> Known:
    try:
        return read()
    except Exception as error:  # noqa: BLE001 - stores and drivers raise anything, and an event without types is one too
        log.debug("The types of columns cannot be read: %s", type(error).__name__)
        return unknown


def _lineage(
    tables: Tables,
    *,
    outputs: list[OutputDataset],
    schemas: Sequence[TypesByColumn] = (),
    run_facets: dict[str, RunFacet] | None = None,
) -> OperatorLineage[Any, Any]:
    job_facets: dict[str, JobFacet] = {} if tables.sql is None else {"sql": sql_job.SQLJobFacet(query=tables.sql)}
    return OperatorLineage(
        inputs=[
            InputDataset(one.namespace, one.name, facets={"schema": _schema(schema)} if schema else {})
            for one, schema in zip_longest(tables.inputs, schemas)
        ],
        outputs=outputs,
        run_facets=run_facets or {},
        job_facets=job_facets,
    )


def _output(dataset: Dataset, facets: dict[str, Any]) -> OutputDataset:
    return OutputDataset(dataset.namespace, dataset.name, facets=facets)


def _schema(columns: TypesByColumn) -> schema_dataset.SchemaDatasetFacet:
    fields = [schema_dataset.SchemaDatasetFacetFields(name=name, type=kind) for name, kind in columns.items()]
    return schema_dataset.SchemaDatasetFacet(fields=fields)


def _column_lineage(
    question: Question, asked: Iterable[str], origins: Origins
) -> column_lineage_dataset.ColumnLineageDatasetFacet:
    """Key columns are copied; every answer column is made from all columns that the prompt names."""

    def fields(columns: Iterable[str], subtype: str, description: str) -> column_lineage_dataset.Fields:
        how = column_lineage_dataset.Transformation("DIRECT", subtype, description, masking=False)
        return column_lineage_dataset.Fields(
            inputFields=[
                column_lineage_dataset.InputField(dataset.namespace, dataset.name, column, transformations=[how])
                for name in sorted(columns)
                for dataset, column in origins(name)
            ]
        )

    answer = fields(asked, "TRANSFORMATION", f"answer of {question.model}")
    found = {name: fields([name], "IDENTITY", "key of the row") for name in question.key}
    found |= dict.fromkeys(question.answer_columns, answer)
    return column_lineage_dataset.ColumnLineageDatasetFacet(
        fields={name: one for name, one in found.items() if one.inputFields}
    )


def _figures(manifest: Manifest) -> Any:
    return RunFacet(producer=PRODUCER).with_additional_properties(
        model=manifest.model,
        promptHash=manifest.prompt_hash,
        rowsRead=manifest.rows_read,
        distinctRows=manifest.distinct_rows,
        outcomes=manifest.outcomes,
        requests=manifest.requests,
        tokens=manifest.tokens,
        costUsd=manifest.cost,
        costMicros=micros(manifest.cost),
        unpriced=manifest.unpriced,
        cacheHits=manifest.cache_hits,
        complete=manifest.complete,
    )
