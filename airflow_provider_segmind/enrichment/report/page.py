"""
The report of a run: an HTML page with key figures and charts, generated from its manifest.

It is self-contained: no scripts, no network, nothing to install. It shows the content of the manifest, and of rows only
some keys of those without an answer; it contains no prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.report.charts import COLOURS, draw_all
from airflow_provider_segmind.enrichment.report.history import summary_of
from airflow_provider_segmind.enrichment.storage import StorePath, make_folder, write_whole
from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.wording import counted, duration, moment

TEMPLATE = "page.html.jinja2"
PROMPT_CHARACTERS = 12
"""Characters of a prompt's hash in the report and the log; as a prefix it finds the file in the ledger."""


def write_report(
    manifest: Manifest, path: StorePath, *, task_url: str | None = None, keys: Mapping[tuple[str, str], list[str]] = {}
) -> None:
    """
    Write the report of a run as a file. Blocks.

    :param task_url: the task instance in Airflow's UI.
    :param keys: some keys of rows without an answer, by outcome and reason.
    """
    page = render(manifest, task_url=task_url, keys=keys).encode()
    make_folder(path.parent)
    with write_whole(path) as file:
        file.write(page)


def render(manifest: Manifest, *, task_url: str | None = None, keys: Mapping[tuple[str, str], list[str]] = {}) -> str:
    """Return the page; see :func:`write_report`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(TEMPLATE).render(
        task=manifest.task,
        task_url=task_url,
        keys=keys,
        runs=_runs(manifest),
        manifest=manifest,
        prompt=manifest.prompt_hash[:PROMPT_CHARACTERS],
        state=state_of(manifest),
        figures=list(key_figures(manifest)),
        charts=draw_all(manifest),
        reasons=reason_rows(manifest),
        colours=COLOURS,
        files=list(_files(manifest)),
        counted=counted,
        moment=moment,
        format_usd=format_usd,
    )


@dataclass(frozen=True, slots=True)
class State:
    """One sentence on how the run ended; ``mood`` is ``good``, ``bad`` or empty."""

    words: str
    mood: str = "bad"


def state_of(manifest: Manifest) -> State:
    """Return how a run ended."""
    if manifest.stopped is not None:
        return State(f"Stopped: {manifest.stopped}")
    if not manifest.complete:
        return State("The source was not read to its end")
    if not manifest.rows_read:
        return State("There were no rows", "")
    if manifest.rows_left:
        return State(f"{counted(manifest.rows_left, 'row')} left without an outcome")
    return State("Every row has its outcome", "" if manifest.unanswered_rows else "good")


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A number, its label, and a note such as the number in another unit."""

    name: str
    value: str
    note: str = ""


def key_figures(manifest: Manifest) -> Iterator[KeyFigure]:
    """Yield the figures of a run."""
    rows, answered = manifest.rows_read, manifest.outcomes[Outcome.SUCCESS]
    yield KeyFigure("rows read", f"{rows:,}", f"{manifest.distinct_rows:,} of them distinct")
    yield KeyFigure("rows answered", f"{answered:,}", f"{100 * answered / rows:.4g}% of the rows" if rows else "")
    each = f"{format_usd(1000 * manifest.cost / rows)} per 1,000 rows" if rows else ""
    unpriced = f"; {counted(manifest.unpriced, 'row')} of unknown cost" if manifest.unpriced else ""
    first = format_usd(manifest.cost - manifest.follow_up_cost)
    parts = f"{first} first answers, {format_usd(manifest.follow_up_cost)} follow-ups"
    yield KeyFigure(
        "billed in this run", format_usd(manifest.cost), f"{each}{unpriced}" if not manifest.follow_up_cost else parts
    )
    yield KeyFigure("tokens in this run", f"{manifest.tokens:,}")
    yield KeyFigure("duplicates saved", f"{manifest.duplicates_saved:,}", "rows that share an answer")
    unchanged = (
        f"; {counted(manifest.rows_unchanged, 'row')} unchanged in the target" if manifest.rows_unchanged else ""
    )
    yield KeyFigure("answered before", f"{manifest.cache_hits:,}", f"distinct rows, by another run{unchanged}")
    done = sum(sum(manifest.timeline.get(name, ())) for name in ("answered", "unanswered"))
    each = f"{manifest.calls / done:.3g} per distinct row" if done else ""
    yield KeyFigure("calls in this try", f"{manifest.calls:,}", each)
    rate = f"{done / manifest.seconds:,.1f} distinct rows per second" if done and manifest.seconds else ""
    yield KeyFigure("this try took", duration(manifest.seconds), rate)


def reason_rows(manifest: Manifest) -> list[tuple[Outcome, str, int]]:
    """Return outcome, reason and number of rows, the most frequent reasons first."""
    rows = [
        (Outcome(outcome), reason, count)
        for outcome, counts in manifest.reasons.items()
        for reason, count in counts.items()
    ]
    return sorted(rows, key=lambda row: -row[2])


@dataclass(frozen=True, slots=True)
class Run:
    """A run in the list of the latest ones."""

    when: str
    run_id: str
    model: str
    prompt: str
    rows: int
    answered: int
    cost: float


def _runs(manifest: Manifest) -> list[Run]:
    """Return this run and the earlier ones of the table, none if there were no earlier ones."""
    own = summary_of(manifest)
    return [
        Run(
            when=moment(one["ended"]) if one["ended"] else "",
            run_id=Manifest(run_id=one["run_id"], model="").task[1] or one["run_id"],
            model=one["model"],
            prompt=one["prompt_hash"][:PROMPT_CHARACTERS],
            rows=one["rows"],
            answered=one["answered"],
            cost=one["cost"],
        )
        for one in ([own, *manifest.earlier] if manifest.earlier else [])
    ]


@dataclass(frozen=True, slots=True)
class File:
    """A file of the run; ``link`` is set for one next to the report, so that both can be moved together."""

    what: str
    address: str
    link: str = ""


def _files(manifest: Manifest) -> Iterator[File]:
    addresses = [("answers", address) for address in manifest.outputs]
    addresses += [("rows without an answer", address) for address in manifest.dead_letters]
    here = (manifest.report or "").rpartition("/")[0]
    for what, address in addresses:
        folder, _, name = address.rpartition("/")
        yield File(what, address, quote(name) if here and folder == here else "")
