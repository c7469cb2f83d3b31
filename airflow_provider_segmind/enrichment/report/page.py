"""
The report of a run: an HTML page with key figures and charts, generated from its manifest.

It is self-contained: no scripts, no network, nothing to install. It shows only the content of the manifest, so it
contains no rows and no prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.report.charts import COLOURS, counted, draw_all, moment, money
from airflow_provider_segmind.enrichment.storage import StorePath, make_folder, write_whole

TEMPLATE = "page.html.jinja2"


def write_report(manifest: Manifest, path: StorePath) -> None:
    """Write the report of a run as a file. Blocks."""
    page = render(manifest).encode()
    make_folder(path.parent)
    with write_whole(path) as file:
        file.write(page)


def render(manifest: Manifest) -> str:
    """Return the page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template(TEMPLATE).render(
        title=f"{counted(manifest.rows_read, 'row')} with {manifest.model}",
        manifest=manifest,
        state=_state(manifest),
        figures=list(_figures(manifest)),
        charts=draw_all(manifest),
        reasons=_reasons(manifest),
        colours=COLOURS,
        files=list(_files(manifest)),
        counted=counted,
        moment=moment,
    )


@dataclass(frozen=True, slots=True)
class State:
    """One sentence on how the run ended; ``mood`` is ``good``, ``bad`` or empty."""

    words: str
    mood: str = "bad"


def _state(manifest: Manifest) -> State:
    if manifest.stopped is not None:
        return State(f"Stopped: {manifest.stopped}")
    if not manifest.complete:
        return State("The source was not read to its end")
    if not manifest.rows_read:
        return State("There were no rows", "")
    if manifest.rows_left:
        return State(f"{counted(manifest.rows_left, 'row')} left without an outcome")
    return State("Every row has its outcome", "good")


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """A number, its label, and a note such as the number in another unit."""

    name: str
    value: str
    note: str = ""


def _figures(manifest: Manifest) -> Iterator[KeyFigure]:
    rows, answered = manifest.rows_read, manifest.outcomes[Outcome.SUCCESS]
    yield KeyFigure("rows read", f"{rows:,}", f"{manifest.distinct_rows:,} of them distinct")
    yield KeyFigure("rows answered", f"{answered:,}", f"{100 * answered / rows:.4g} % of the rows" if rows else "")
    each = f"{money(1000 * manifest.cost / rows)} for 1,000 rows" if rows else ""
    unpriced = f"; {manifest.unpriced:,} rows of unknown price" if manifest.unpriced else ""
    yield KeyFigure("USD billed in this run", money(manifest.cost), f"{each}{unpriced}")
    yield KeyFigure("tokens in this run", f"{manifest.tokens:,}")
    yield KeyFigure("duplicates saved", f"{manifest.duplicates_saved:,}", "rows that share an answer")
    unchanged = (
        f"; {counted(manifest.rows_unchanged, 'row')} unchanged in the target" if manifest.rows_unchanged else ""
    )
    yield KeyFigure("answered before", f"{manifest.cache_hits:,}", f"distinct rows, by another run{unchanged}")
    done = sum(sum(manifest.timeline.get(name, ())) for name in ("answered", "unanswered"))
    each = f"{manifest.calls / done:.3g} for each distinct row" if done else ""
    yield KeyFigure("calls in this try", f"{manifest.calls:,}", each)
    rate = f"{done / manifest.seconds:,.1f} distinct rows a second" if done and manifest.seconds else ""
    yield KeyFigure("this try took", duration(manifest.seconds), rate)


def _reasons(manifest: Manifest) -> list[tuple[Outcome, str, int]]:
    rows = [
        (Outcome(outcome), reason, count)
        for outcome, counts in manifest.reasons.items()
        for reason, count in counts.items()
    ]
    return sorted(rows, key=lambda row: -row[2])


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


def duration(seconds: float) -> str:
    """Return a readable duration."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
