"""
Every error this package raises, arranged by what its reader does next.

The two questions asked of each: was money spent (``billed``), and does running the task again help (``retryable``)?

::

    SegmindError
    ├── SegmindConfigError               connection or parameter cannot work         billed no   retry no
    │   └── SegmindRowError              one row of a table cannot be asked about    billed no   retry no
    ├── SegmindAPIError                  carries status_code, request_id, body
    │   ├── SegmindConnectionError       no answer; nothing paid can have arrived    billed no   retry yes
    │   ├── SegmindSubmissionUnknownError  a paid call may have arrived; who knows   billed ?    by policy only
    │   ├── SegmindAuthenticationError   the key is missing or wrong                 billed no   retry no
    │   ├── SegmindPermissionError       the account may not use the model           billed no   retry no
    │   ├── SegmindModelNotFoundError    no such model                               billed no   retry no
    │   ├── SegmindModelRetiredError     the model is gone                           billed no   retry no
    │   ├── SegmindBadRequestError       Segmind refuses what was sent               billed no   retry no
    │   ├── SegmindCreditsError          the account cannot pay                      billed no   retry no
    │   ├── SegmindRateLimitError        429 after the client's patience             billed no   retry yes
    │   ├── SegmindServerError           5xx, patience over; paid: only by policy    billed no   retry yes
    │   └── SegmindResponseError         an answer that breaks the contract          billed ?    see text
    │       └── SegmindResponseTooLargeError  larger than the connection's bound     billed ?    no, raise the bound
    ├── SegmindRequestError              what became of an accepted request
    │   ├── SegmindRequestFailedError    Segmind reports FAILED; carries its words   billed no   retry no
    │   ├── SegmindRequestExpiredError   the result is gone (over an hour)           billed yes  recover, or policy
    │   └── SegmindRequestTimeoutError   our deadline passed; it may still finish    billed yes  a retry re-attaches
    ├── SegmindReplyError                no text, truncated, blocked, bad JSON       billed yes  retry no
    ├── SegmindDownloadError             a file's address, size or time              billed yes  no, raise the bound
    ├── SegmindStateError                an earlier try's note cannot be read        billed no   retry yes
    └── SegmindEnrichmentError           a table could not be enriched as asked      see text    see text

``billed`` is True, False, or None where nobody can know. The HTTP meanings are those of Segmind's error pages
(https://docs.segmind.com, "Errors") and of its Python SDK 1.3.0.
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_segmind.masking import mask_known

SHOWN_CHARACTERS = 200
"""How much of a server's answer or a model's reply a message may quote."""


def shorten(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """Cut ``text`` to ``limit`` characters and mark the cut with an ellipsis."""
    return text if len(text) <= limit else text[:limit] + "…"


class SegmindError(Exception):
    """The root of every error of this package."""

    billed: bool | None = False
    """Whether money was spent on what failed: True, False, or None for "nobody can know"."""

    retryable: bool = False
    """Whether running the same task again can end differently."""

    def __init__(self, *args: Any) -> None:
        # Messages quote servers, and a server may quote the key.
        super().__init__(*(mask_known(part) if isinstance(part, str) else part for part in args))

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with the message alone, and several classes need more than that.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[SegmindError], args: tuple[Any, ...], attributes: dict[str, Any]) -> SegmindError:
    """Make an error again from what was pickled of it."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


_NOTHING_SENT = re.compile(
    r"Nothing was (?:sent|submitted)(?: (?:or|and nothing was) billed)?(?= in this try\b|[.;,]|$)"
)


def after_sending(error: SegmindError, before: str) -> None:
    """
    Correct a message that says "Nothing was sent" of one step, where something was sent before that step.

    :param before: what was sent before, in words.
    """
    said = _NOTHING_SENT.sub(f"Nothing more was sent; {before}", str(error))
    if said != str(error):
        error.args = (said, *error.args[1:])


class SegmindConfigError(SegmindError):
    """A connection or a parameter cannot work. Nothing was sent."""


class SegmindRowError(SegmindConfigError):
    """What stands in one row of a table cannot be asked about; other rows can. Nothing was sent for it."""


class SegmindAPIError(SegmindError):
    """
    Segmind's answer, or the lack of one, is not what was asked for.

    :param message: what was tried, what came back, what it costs, what to do.
    :param status_code: HTTP status of the answer, None when there was none.
    :param request_id: the request the call was about, when it was about one.
    :param body: the server's words, at most 200 characters, secrets masked.
    """

    gateway: bool = False
    """Whether something in front of Segmind answered (a redirect, a gateway's 5xx, a page), so that the answer says
    nothing about the call itself."""
    patience_spent: bool = False
    """Whether the call has waited for as long as it may, so that the client does not begin anew; a retry of the task
    may help."""

    def __init__(
        self, message: str, *, status_code: int | None = None, request_id: str | None = None, body: str | None = None
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.request_id = request_id
        self.body = None if body is None else shorten(mask_known(body))


class SegmindConnectionError(SegmindAPIError):
    """No answer, and nothing that costs money can have arrived. A retry helps."""

    retryable = True


class SegmindSubmissionUnknownError(SegmindAPIError):
    """A paid call may have arrived and nobody knows. It is never sent again by itself."""

    billed = None


class SegmindAuthenticationError(SegmindAPIError):
    """The API key is missing or Segmind refuses it (HTTP 401)."""


class SegmindPermissionError(SegmindAPIError):
    """The key is good but the account may not do this (HTTP 403)."""


class SegmindModelNotFoundError(SegmindAPIError):
    """Segmind knows no model of this name (HTTP 404 on submit)."""


class SegmindModelRetiredError(SegmindAPIError):
    """The model existed and is gone (HTTP 410)."""


class SegmindBadRequestError(SegmindAPIError):
    """Segmind refuses what was sent (HTTP 400, 405, 406, 413, 422 on submit, other 4xx)."""


class SegmindCreditsError(SegmindAPIError):
    """The account cannot pay (HTTP 402, or 406 that speaks of credits or a spend limit)."""


class SegmindRateLimitError(SegmindAPIError):
    """
    Too many calls (HTTP 429), and the client's own patience is over.

    :param retry_after: seconds until the limit resets, None when the server does not say.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        status_code: int | None = 429,
        request_id: str | None = None,
        body: str | None = None,
    ) -> None:
        super().__init__(message, status_code=status_code, request_id=request_id, body=body)
        self.retry_after = retry_after


class SegmindServerError(SegmindAPIError):
    """
    A call was answered 5xx until the client's patience was over. A retry helps.

    Of a free call, or of a paid one where the connection's ``resubmit_on_server_error`` says a 5xx created nothing.
    """

    retryable = True


class SegmindResponseError(SegmindAPIError):
    """
    The answer breaks the contract: no request id, not JSON, a redirect, a proxy's page.

    :param billed: None after a paid call that may have been carried out; True where a file of a result is missing;
        False where nothing paid was sent, or where something in front of Segmind refused it.
    :param retryable: True where something in front of Segmind answered and nothing was created, for a file of a result,
        and for a free call whose answer was cut off.
    """

    def __init__(
        self,
        message: str,
        *,
        billed: bool | None = None,
        retryable: bool = False,
        status_code: int | None = None,
        request_id: str | None = None,
        body: str | None = None,
    ) -> None:
        super().__init__(message, status_code=status_code, request_id=request_id, body=body)
        self.billed = billed
        self.retryable = retryable


class SegmindResponseTooLargeError(SegmindResponseError):
    """
    The response is larger than the bound of the connection, and was not read to its end.

    :param billed: True for the result of a request, None after a paid call, False otherwise.
    """


class SegmindRequestError(SegmindError):
    """
    What became of one request that Segmind accepted.

    :param request_id: the request.
    """

    def __init__(self, message: str, *, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id


class SegmindRequestFailedError(SegmindRequestError):
    """
    Segmind reports FAILED, content blocks included. Nothing was billed; waiting again cannot help.

    :param reason: Segmind's own words, at most 200 characters.
    """

    def __init__(self, message: str, *, request_id: str, reason: str = "") -> None:
        super().__init__(message, request_id=request_id)
        self.reason = shorten(mask_known(reason))


class SegmindRequestExpiredError(SegmindRequestError):
    """
    The result is gone: Segmind keeps one for an hour after submission.

    :param age: seconds since submission, None when unknown.
    :param cost: USD as billed according to the request record, None when unknown.
    """

    billed = True

    def __init__(self, message: str, *, request_id: str, age: float | None = None, cost: float | None = None) -> None:
        super().__init__(message, request_id=request_id)
        self.age = age
        self.cost = cost


class SegmindRequestTimeoutError(SegmindRequestError):
    """Our deadline passed. There is no cancel call: the request goes on and may be billed; a retry re-attaches."""

    billed = True
    retryable = True


class SegmindReplyError(SegmindError):
    """
    The model answered, and was paid, but the answer cannot be used.

    :param reason: ``empty``, ``truncated``, ``blocked`` or ``invalid``.
    :param reply: the first 200 characters of the reply.
    """

    billed = True

    def __init__(self, message: str, *, reason: str, reply: str = "", request_id: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.reply = shorten(mask_known(reply))
        self.request_id = request_id


class SegmindDownloadError(SegmindError):
    """
    A file of a result is not fetched: its address is not public, or it is larger or slower than its bounds.

    The request was billed. Segmind keeps the file for seven days.

    :param refused: whether its address is the reason; then nothing was sent there.
    """

    billed = True

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class SegmindStateError(SegmindError):
    """What an earlier try noted cannot be read. Unreadable is not absent: nothing is submitted until it can be."""

    retryable = True


class SegmindEnrichmentError(SegmindError):
    """
    A table could not be enriched as asked.

    :param retryable: True when the ledger could not be read or rows are left that a retry does.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
