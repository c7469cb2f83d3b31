"""What is sent for each row: the body, its fingerprint, and how its reply is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from airflow_provider_segmind.chat.cost_estimate import UNBOUNDED, CostBound
from airflow_provider_segmind.client.submission import text_digest
from airflow_provider_segmind.enrichment.outcomes import ReadRow
from airflow_provider_segmind.enrichment.rows import Row, canonical_json, fingerprint, frame
from airflow_provider_segmind.exceptions import SegmindRowError


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """
    What is sent for each row.

    :param model: the model to run.
    :param build: makes the body from a row; raises SegmindConfigError when it cannot.
    :param read: decides what an answer is worth.
    :param key: the columns that identify a row; they are part of the output.
    :param answer_columns: the columns of an accepted answer.
    :param placeholders: what the templates of the body may name of a row, as
        :func:`~airflow_provider_segmind.enrichment.rows.placeholders` returns it.
    :param schema: the JSON Schema of the answer, part of the fingerprint.
    :param options: what else decides how an answer is read, part of the fingerprint.
    :param template: what the bodies are made from, before any row is filled in.
    :param parallel_builds: how many rows are built at a time; more than one where building waits for files.
    :param most: what a request with a body may cost, which ``max_cost`` reserves while it is in flight.
    :param text: returns the canonical JSON of the body without building it, None where that cannot be done; raises what
        ``build`` raises.
    :param form: returns a body with the fields that a follow-up has, from the body of the first request and
        :attr:`~airflow_provider_segmind.enrichment.ledger.events.Claimed.follow_ups`; None where it is not known.
    """

    model: str
    build: Callable[[Row], Mapping[str, Any]]
    read: ReadRow
    key: tuple[str, ...]
    answer_columns: tuple[str, ...]
    placeholders: frozenset[str] = frozenset()
    schema: Any = None
    options: Any = None
    template: Any = None
    parallel_builds: int = 1
    most: Callable[[Mapping[str, Any]], CostBound] = lambda _: UNBOUNDED
    text: Callable[[Row], str | None] = lambda _: None
    form: Callable[[Mapping[str, Any], tuple[int, ...]], Mapping[str, Any] | None] = lambda _, __: None
    prompt_hash: str = field(init=False)
    """SHA-256 of :attr:`prompt`, in hex."""
    _frame: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_frame", frame(model=self.model, schema=self.schema, options=self.options))
        object.__setattr__(self, "prompt_hash", text_digest(canonical_json(self.prompt)).hex())

    @property
    def prompt(self) -> dict[str, Any]:
        """The part of the question that depends neither on the row nor on the model."""
        return {"template": self.template, "schema": self.schema, "options": self.options}

    @property
    def columns(self) -> frozenset[str]:
        """The columns of the source that may be needed; no other need be read."""
        return self.placeholders.union(self.key)

    def prepare(self, row: Row) -> Prepared:
        """
        Build what is sent for a row, or only its text, if that is known without building it.

        :raises SegmindConfigError: it cannot be built; nothing was sent.
        """
        text, made = self.text(row), partial(self.build, row)
        if text is None:
            inputs = made()
            text = canonical_json(inputs)
            _check_characters(text, row)
            return Prepared(fingerprint(self._frame, text), inputs, text_digest(text), len(text))
        _check_characters(text, row)
        return Prepared(fingerprint(self._frame, text), made, text, len(text))


def _check_characters(text: str, row: Row) -> None:
    """
    Check that a body can be written as JSON.

    :raises SegmindRowError: it cannot.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SegmindRowError(
            f"The request of row {row.number} contains half of a surrogate pair (a cut emoji), which cannot be sent. "
            "Nothing was sent for this row."
        ) from error


class Prepared(NamedTuple):
    """
    A question ready to be sent.

    :param made: the inputs, or what builds them: most rows of a table that runs again have their answers.
    :param digest: SHA-256 of the inputs, or their canonical JSON.
    :param size: about how many bytes the inputs have.
    """

    fingerprint: bytes
    made: Mapping[str, Any] | Callable[[], Mapping[str, Any]]
    digest: bytes | str
    size: int = 0

    @property
    def body(self) -> str:
        """SHA-256 of the inputs in hex."""
        return (self.digest if isinstance(self.digest, bytes) else text_digest(self.digest)).hex()

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The JSON body."""
        return self.made() if callable(self.made) else self.made


@dataclass(frozen=True, slots=True)
class LostRow:
    """
    A row whose request may have been sent.

    :param until: epoch seconds after which it was certainly not sent any more.
    :param sent: the body, None where another process sent it.
    """

    prepared: Prepared
    until: float
    sent: Mapping[str, Any] | None = None
