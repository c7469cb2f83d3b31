"""
The answer cache: an answer that was paid for is reused by any task or table with the same request. No Airflow.

One small file contains one answer, ``<first two digits>/<fingerprint>.json``: a line about it, and in the lines after
that the JSON of the reply as Segmind sent it. So every reader decides by its own rules whether the reply is an answer.
The fingerprint is that of the ledger (:func:`~airflow_provider_segmind.enrichment.rows.fingerprint`).

A file is written whole and replaced only by another answer to the same question. Looking up an answer is one read,
keeping one is one write. Questions are not locked: two tasks that send the same request at the same moment both pay,
and the later answer stays.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.client.submission import ResultManifest
from airflow_provider_segmind.enrichment.rows import canonical_json, fingerprint, frame
from airflow_provider_segmind.enrichment.storage import StorePath, names_if_any, read_at_once, write_at_once
from airflow_provider_segmind.exceptions import SegmindStateError, shorten

log = logging.getLogger(__name__)
FORMAT_VERSION = 1
ANSWER_SUFFIX = ".json"
WHOLE_RESULT = "result"
"""The options of a question whose answer is a whole result, not a reply that was accepted."""
_FOLDER = re.compile(r"[0-9a-f]{2}")
_FILE = re.compile(rf"[0-9a-f]{{64}}{re.escape(ANSWER_SUFFIX)}")


def question_fingerprint(model: str, inputs: Mapping[str, Any], *, schema: Any = None, options: Any = None) -> bytes:
    """
    Return the 32 bytes under which the answer to a question is kept.

    :param inputs: the body of the first request.
    :param schema: the JSON Schema that the answer must match.
    :param options: whatever else decides how the answer is read.
    """
    return fingerprint(frame(model=model, schema=schema, options=options), canonical_json(inputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    An answer that was paid for.

    :param at: epoch seconds when its request was submitted.
    :param request_id: of the request that was answered, the last one if there were follow-ups.
    :param requests: how many requests it took.
    :param cost: USD billed for all of them, None if Segmind did not report it.
    :param body: the JSON of the reply; empty if the answer is files.
    :param manifest: of the files that the answer is, None for a reply.
    """

    fingerprint: bytes
    model: str
    at: float
    request_id: str
    requests: int = 1
    cost: float | None = None
    body: bytes = b""
    manifest: ResultManifest | None = None

    @property
    def result(self) -> RequestResult | None:
        """The reply; None for files, and for a body that this version cannot read as a reply."""
        try:
            return RequestResult.decoded(self.body) if self.body else None
        except ValueError:
            return None


class AnswerCache:
    """
    The answer cache in one folder of any store. Its methods block; any thread may call them.

    :param root: the folder; created with the first answer.
    :param max_age: seconds after its submission for which an answer is used.
    """

    def __init__(self, root: StorePath, *, max_age: float = math.inf, clock: Callable[[], float] = time.time) -> None:
        self.name = f"the folder {str(root)!r}"
        self._root = root
        self._max_age = max_age
        self._clock = clock

    def find(self, question: bytes) -> Answer | None:
        """
        Return the answer to a question, None where there is none, or only an older one.

        A damaged file counts as missing: its content is lost either way, so waiting would not help.

        :raises SegmindStateError: the store is out of reach, so it is unknown whether the answer was paid for. Nothing
            was sent.
        """
        path = self.path(question)
        try:
            content = read_at_once(path)
        except FileNotFoundError:
            return None
        except Exception as error:  # Libraries of stores raise errors of their own.
            raise SegmindStateError(
                f"The answer cache in {self.name} cannot be read ({type(error).__name__}: {shorten(str(error))}). "
                "The answer may be there, paid for already: nothing was sent. A retry reads it again; "
                "reuse_answers='never' asks without it."
            ) from error
        answer = _decoded(question, content)
        if answer is None:
            log.warning(
                "The file %s of the answer cache is damaged: the request is sent and paid for again. The new "
                "answer replaces it",
                path.name,
            )
        return answer if answer is not None and self._clock() - answer.at < self._max_age else None

    def keep(self, answer: Answer) -> None:
        """
        Keep an answer, in place of an earlier one to the same question.

        :raises Exception: any error of the store; the caller still has the answer.
        """
        write_at_once(self.path(answer.fingerprint), _encoded(answer))

    def keep_reply(
        self, question: bytes, result: RequestResult, *, model: str, at: float, requests: int, cost: float | None
    ) -> None:
        """Keep a reply that was accepted; see :meth:`keep` and :class:`Answer`."""
        self.keep(
            Answer(
                fingerprint=question,
                model=model,
                at=at,
                request_id=result.request_id,
                requests=requests,
                cost=cost,
                body=result.encoded(),
            )
        )

    def path(self, question: bytes) -> StorePath:
        """Return where the answer to a question is, if there is one."""
        name = question.hex()
        return self._root / name[:2] / f"{name}{ANSWER_SUFFIX}"

    def all(self) -> Iterator[tuple[StorePath, float | None]]:
        """
        Yield every file, and when its request was submitted in epoch seconds, None for a damaged one; reads each.

        Files of other names are not of the answer cache: the folder may contain anything else.

        :raises OSError: or another error of the store.
        """
        for folder in sorted(filter(_FOLDER.fullmatch, names_if_any(self._root))):
            for name in sorted(names_if_any(self._root / folder)):
                if not (_FILE.fullmatch(name) and name.startswith(folder)):
                    continue
                path = self._root / folder / name
                try:
                    content = read_at_once(path)
                except FileNotFoundError:
                    continue
                answer = _decoded(bytes.fromhex(name.removesuffix(ANSWER_SUFFIX)), content)
                yield path, None if answer is None else answer.at


def _encoded(answer: Answer) -> bytes:
    about = {
        "version": FORMAT_VERSION,
        "fingerprint": answer.fingerprint.hex(),
        "model": answer.model,
        "at": answer.at,
        "request_id": answer.request_id,
        "requests": answer.requests,
        "cost": answer.cost,
        "manifest": answer.manifest and answer.manifest.to_json(),
        "crc32": f"{zlib.crc32(answer.body):08x}",
    }
    return json.dumps(about, separators=(",", ":")).encode() + b"\n" + answer.body


def _decoded(question: bytes, content: bytes) -> Answer | None:
    """Return the answer in a file, None if it is not what was written under the question."""
    line, _, body = content.partition(b"\n")
    try:
        about = json.loads(line)
        whole = about["crc32"] == f"{zlib.crc32(body):08x}" and about["fingerprint"] == question.hex()
        answer = Answer(
            fingerprint=question,
            model=str(about["model"]),
            at=float(about["at"]),
            request_id=str(about["request_id"]),
            requests=int(about["requests"]),
            cost=None if about["cost"] is None else float(about["cost"]),
            body=body,
            manifest=ResultManifest.from_json(about["manifest"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    # An age that is not a number would never end.
    whole = whole and math.isfinite(answer.at) and math.isfinite(answer.cost or 0.0)
    return answer if whole and about.get("version") == FORMAT_VERSION else None
