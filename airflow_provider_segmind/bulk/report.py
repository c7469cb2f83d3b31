"""
The report of a run: one HTML page with key figures and charts, made from its manifest.

It stands by itself: no script, no network, nothing to install where it is read. What it shows is what the manifest
holds, so there are no rows and no prompts in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from importlib.util import find_spec
from urllib.parse import quote

from airflow_provider_segmind.bulk.charts import COLOURS, Chart, counted, draw_all, moment, money
from airflow_provider_segmind.bulk.manifest import Manifest
from airflow_provider_segmind.bulk.storage import StorePath, make_folder, write_whole
from airflow_provider_segmind.bulk.verdicts import Outcome
from airflow_provider_segmind.exceptions import SegmindConfigError

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2430; --soft: #5b6675; --line: #d4dae2;
  --good: #1f7a56; --bad: #b3364a; }
@media (prefers-color-scheme: dark) { :root { --page: #14181f; --card: #1d232c; --text: #e6eaf0; --soft: #9aa6b5;
  --line: #3a4350; --good: #5cc79b; --bad: #f08a9a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", Roboto,
  "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 48px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 12px; }
p { margin: 4px 0; } .soft { color: var(--soft); }
.state { font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); }
.grid { display: grid; gap: 12px; }
.figures { grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); margin-top: 16px; }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); }
.card, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px;
  margin: 0; }
.card b { display: block; font-size: 22px; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; display: block; }
figure.wide { grid-column: 1 / -1; overflow-x: auto; } figure.wide svg { min-width: 720px; }
figcaption { font-weight: 600; margin-bottom: 6px; } figure p { color: var(--soft); font-size: 13px; }
svg { display: block; width: 100%; height: auto; } svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: inherit !important; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 7px 16px; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; } th { color: var(--soft); font-weight: 600; font-size: 13px; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
i { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px; }
code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 13px; overflow-wrap: anywhere; }
a { color: inherit; }
"""
# The browser itself then refuses whatever would reach the network or run.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def can_report() -> bool:
    """Tell whether the library that draws the charts is installed."""
    return find_spec("matplotlib") is not None


def need_report() -> None:
    """
    Make sure that a report can be drawn.

    :raises SegmindConfigError: matplotlib is not installed; nothing was sent.
    """
    if not can_report():
        raise SegmindConfigError(
            "The report needs matplotlib: install airflow-provider-segmind[report], or set report=None to write one "
            "only where it is there. Nothing was sent."
        )


def write_report(manifest: Manifest, path: StorePath) -> None:
    """Draw the report of a run and write it as a file, whole. Blocks, for about two seconds the first time."""
    page = render(manifest).encode()
    make_folder(path.parent)
    with write_whole(path) as file:
        file.write(page)


def render(manifest: Manifest) -> str:
    """Return the page."""
    title = f"{counted(manifest.rows_read, 'row')} with {manifest.model}"
    parts = [
        _head(manifest, title),
        _figures(manifest),
        "<h2>Charts</h2>",
        '<div class="grid charts">',
        *(_figure(chart) for chart in draw_all(manifest)),
        "</div>",
        *_reasons(manifest),
        *_files(manifest),
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def _head(manifest: Manifest, title: str) -> str:
    shard = f", shard {manifest.shard_index} of {manifest.shard_count}" if manifest.shard_count > 1 else ""
    began = f", begun {moment(manifest.timeline['began'])}" if manifest.timeline else ""
    lines = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">Run <code>{escape(manifest.run_id)}</code>{shard}{began}</p>',
        _state(manifest),
    ]
    if manifest.resumed:
        fetched = counted(manifest.resumed, "answer")
        lines.append(f"<p>{fetched} to requests of an earlier try fetched in this one.</p>")
    return "\n".join(lines)


def _state(manifest: Manifest) -> str:
    left = manifest.rows_left
    if manifest.stopped is not None:
        words = f"Stopped: {manifest.stopped}"
    elif not manifest.complete:
        words = "The source was not read to its end"
    elif not manifest.rows_read:
        return '<p class="state">There were no rows</p>'
    elif left:
        words = f"{counted(left, 'row')} left without an outcome"
    else:
        return '<p class="state good">Every row has its outcome</p>'
    return f'<p class="state bad">{escape(words)}</p>'


def _figures(manifest: Manifest) -> str:
    return (
        '<div class="grid figures">\n'
        + "\n".join(
            f'<div class="card"><b>{escape(value)}</b>{escape(name)}<span>{escape(note)}</span></div>'
            for name, value, note in _key_figures(manifest)
        )
        + "\n</div>"
    )


def _key_figures(manifest: Manifest) -> Iterator[tuple[str, str, str]]:
    rows, answered = manifest.rows_read, manifest.outcomes[Outcome.SUCCESS]
    yield "rows read", f"{rows:,}", f"{manifest.distinct_rows:,} of them distinct"
    yield "rows answered", f"{answered:,}", f"{100 * answered / rows:.4g} % of the rows" if rows else ""
    each = f"{money(1000 * manifest.cost / rows)} for 1,000 rows" if rows else ""
    unpriced = f"; {manifest.unpriced:,} rows of unknown price" if manifest.unpriced else ""
    yield "USD billed in this run", money(manifest.cost), f"{each}{unpriced}"
    yield "tokens in this run", f"{manifest.tokens:,}", ""
    yield "duplicates saved", f"{manifest.duplicates_saved:,}", "rows that share an answer"
    unchanged = (
        f"; {counted(manifest.rows_unchanged, 'row')} unchanged in the target" if manifest.rows_unchanged else ""
    )
    yield "answered before", f"{manifest.cache_hits:,}", f"distinct rows, by another run{unchanged}"
    done = sum(sum(manifest.timeline.get(name, ())) for name in ("answered", "unanswered"))
    each = f"{manifest.calls / done:.3g} for each distinct row" if done else ""
    yield "calls in this try", f"{manifest.calls:,}", each
    rate = f"{done / manifest.seconds:,.1f} distinct rows a second" if done and manifest.seconds else ""
    yield "this try took", duration(manifest.seconds), rate


def _figure(chart: Chart) -> str:
    kind = ' class="wide"' if chart.wide else ""
    caption, words = escape(chart.title), escape(chart.described)
    return f"<figure{kind}><figcaption>{caption}</figcaption>{chart.svg}<p>{words}</p></figure>"


def _reasons(manifest: Manifest) -> Iterator[str]:
    yield "<h2>Rows without an answer</h2>"
    if not manifest.reasons:
        yield '<p class="soft">There are none.</p>'
        return
    yield '<div class="scroll"><table><thead><tr><th>outcome</th><th>reason, in short</th>'
    yield '<th class="number">rows</th></tr></thead><tbody>'
    rows = [
        (outcome, reason, count) for outcome, counts in manifest.reasons.items() for reason, count in counts.items()
    ]
    for outcome, reason, count in sorted(rows, key=lambda row: -row[2]):
        colour = COLOURS[Outcome(outcome)]
        yield f'<tr><td><i style="background:{colour}"></i>{escape(outcome)}</td><td>{escape(reason)}</td>'
        yield f'<td class="number">{count:,}</td></tr>'
    yield "</tbody></table></div>"


def _files(manifest: Manifest) -> Iterator[str]:
    places = [("answers", where) for where in manifest.outputs]
    places += [("rows without an answer", where) for where in manifest.dead_letters]
    if not places:
        return
    yield '<h2>Files</h2><div class="scroll"><table><tbody>'
    here = (manifest.report or "").rpartition("/")[0]
    for what, where in places:
        folder, _, name = where.rpartition("/")
        text = f"<code>{escape(where)}</code>"
        if here and folder == here:
            text = f'<a href="{quote(name)}">{text}</a>'
        yield f"<tr><td>{what}</td><td>{text}</td></tr>"
    yield "</tbody></table></div>"


def duration(seconds: float) -> str:
    """Write seconds for people."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
