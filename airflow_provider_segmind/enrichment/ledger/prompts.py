"""
The prompts of a ledger's runs, each kept once, so that the prompt of a row can be looked up later.

=====================================  =================================================================================
``prompts/<hash>.json``                the template, schema and options; the hash is the SHA-256 of the file
``prompts/runs/<run>/<time>-<hash>``   from that time on the run used this prompt; ``<run>`` is a hash of its id
=====================================  =================================================================================

The events of a row name its run and the time, and with them its prompt, so nothing is written for a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_segmind.client.submission import text_digest
from airflow_provider_segmind.enrichment.rows import canonical_json
from airflow_provider_segmind.enrichment.storage import StorePath, make_folder, names_if_any, write_whole
from airflow_provider_segmind.exceptions import SegmindEnrichmentError

PROMPTS = "prompts"
RUNS = "runs"


def keep_prompt(ledger: StorePath, prompt: Any, *, run: str, at: float) -> None:
    """
    Keep the prompt of a run, unless it is that of the run's latest try. Blocks.

    :param prompt: template, schema and options, as JSON.
    :param at: epoch seconds before the run's next request.
    :raises OSError: the store is out of reach.
    """
    text = canonical_json(prompt)
    name = text_digest(text).hex()
    known = [kept for _, kept in _prompts_of_run(ledger, run)]
    if known[-1:] == [name]:
        return
    if name not in known:
        _write(ledger / PROMPTS, f"{name}.json", text.encode("utf-8", "surrogatepass"))
    _write(_folder_of_run(ledger, run), f"{int(at * 1000):014d}-{name}", json.dumps({"run": run}).encode())


def prompt_hash_of(ledger: StorePath, *, run: str, at: float) -> str | None:
    """
    Return the hash of the prompt with which a run was asking at a time, None if it was not kept.

    :param at: epoch seconds, such as the time of an event of the run.
    """
    kept = list(_prompts_of_run(ledger, run))
    return next((name for since, name in reversed(kept) if since <= at), kept[0][1] if kept else None)


def prompt_of(ledger: StorePath, prompt_hash: str) -> Mapping[str, Any] | None:
    """
    Return what is behind the hash of a prompt: ``template``, ``schema`` and ``options``; None if it was not kept.

    :raises SegmindEnrichmentError: the file is not what its hash says.
    """
    path = ledger / PROMPTS / f"{prompt_hash}.json"
    try:
        with path.open("rb") as file:
            text: str = file.read().decode("utf-8", "surrogatepass")
    except FileNotFoundError:
        return None
    if text_digest(text).hex() != prompt_hash:
        raise SegmindEnrichmentError(f"{str(path)!r} no longer matches the hash in its name: the prompt was changed.")
    kept: Mapping[str, Any] = json.loads(text)
    return kept


def _prompts_of_run(ledger: StorePath, run: str) -> Iterator[tuple[float, str]]:
    """Yield the prompts of a run, oldest first: since when in epoch seconds, and the hash."""
    for name in sorted(names_if_any(_folder_of_run(ledger, run))):
        since, dash, kept = name.partition("-")
        if dash and since.isdecimal():
            yield int(since) / 1000, kept


def _folder_of_run(ledger: StorePath, run: str) -> StorePath:
    return ledger / PROMPTS / RUNS / text_digest(run).hex()[:32]


def _write(folder: StorePath, name: str, content: bytes) -> None:
    make_folder(folder)
    with write_whole(folder / name) as file:
        file.write(content)
