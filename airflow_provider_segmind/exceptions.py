"""
Every error this package raises, arranged by what its reader does next.

Each answers two questions: was money spent (``billed``), and can running the task again help (``retryable``)?

::

    SegmindError
    ├── SegmindConfigError               a connection or argument is invalid         billed no   retry no
    │   └── SegmindRowError              one row of a table cannot be sent           billed no   retry no
    ├── SegmindAPIError                  has status_code, request_id, body
    │   ├── SegmindConnectionError       no response; no paid call can have arrived  billed no   retry yes
    │   ├── SegmindSubmissionUnknownError  a paid call may have arrived              billed ?    by policy only
    │   ├── SegmindAuthenticationError   the key is missing or wrong                 billed no   retry no
    │   ├── SegmindPermissionError       the account may not use the model           billed no   retry no
    │   ├── SegmindModelNotFoundError    the model does not exist                    billed no   retry no
    │   ├── SegmindModelRetiredError     the model was retired                       billed no   retry no
    │   ├── SegmindBadRequestError       Segmind refuses the call                    billed no   retry no
    │   ├── SegmindCreditsError          the account cannot pay                      billed no   retry no
    │   ├── SegmindRateLimitError        429 after all retries of the client         billed no   retry yes
    │   ├── SegmindServerError           5xx to a free call after all retries        billed no   retry yes
    │   └── SegmindResponseError         a malformed or unexpected response          billed ?    see text
    │       └── SegmindResponseTooLargeError  larger than the connection's limit     billed ?    no, raise the limit
    ├── SegmindRequestError              the outcome of an accepted request
    │   ├── SegmindRequestFailedError    Segmind reports FAILED; has its reason      billed no   retry no
    │   ├── SegmindRequestExpiredError   the result is gone (over an hour)           billed yes  recover, or policy
    │   └── SegmindRequestTimeoutError   our deadline passed; it may still finish    billed yes  a retry re-attaches
    ├── SegmindReplyError                no text, truncated, blocked, bad JSON       billed yes  retry no
    ├── SegmindDownloadError             a file's address, size or duration          billed yes  no, raise the limit
    ├── SegmindStateError                an earlier try's record is unreadable       billed no   retry yes
    ├── SegmindPausedError               spending is paused; nothing was sent        billed no   retry yes
    ├── SegmindBudgetError               a budget has no room; nothing was sent      billed no   when it resets
    ├── SegmindInFlightError             max_paid_in_flight is reached               billed no   retry yes
    └── SegmindEnrichmentError           an enrichment could not be completed       see text    see text

``billed`` is True, False, or None when unknown. The HTTP meanings are those of Segmind's error pages
(https://docs.segmind.com, "Errors") and of its Python SDK 1.3.0.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, wraps
from typing import Any, ClassVar, ParamSpec, TypeVar

from airflow_provider_segmind.masking import mask_known

SHOWN_CHARACTERS = 200
"""Characters of a server's response or a model's reply that a message may quote."""


def shorten(text: str, limit: int = SHOWN_CHARACTERS) -> str:
    """Truncate ``text`` to ``limit`` characters and an ellipsis."""
    return text if len(text) <= limit else text[:limit] + "…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the known one nearest to it, if there is one."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def type_name(value: object) -> str:
    """Return the type of a value as a message names it: ``an int``, ``a dict``, ``None``."""
    if value is None or isinstance(value, bytes):
        return "None" if value is None else "bytes"
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeioAEIO' or name.startswith('Un') else 'a'} {name}"


class SegmindError(Exception):
    """The root of every error of this package."""

    billed: bool | None = False
    """Whether money was spent on what failed: True, False, or None when unknown."""

    retryable: bool = False
    """Whether running the same task again can succeed."""
    retries_exhausted: bool = False
    """Whether the client must not repeat the call, although a retry of the task may help: it has waited long enough, or
    the caller decides how long to wait."""

    anchor: ClassVar[str] = "any-error"
    """
    The heading in docs/troubleshooting.md under which the error is explained: what happened, what it cost, what to do.
    """

    names_help = False
    """Whether the message ends with a link to that heading, as it does where people read it: see :func:`with_help`."""

    def __init__(self, *args: Any) -> None:
        # Messages quote servers, and a server may echo the key.
        super().__init__(*(mask_known(part) if isinstance(part, str) else part for part in args))

    def __str__(self) -> str:
        """Return the message."""
        said = super().__str__()
        return f"{said} Help: {help_page(self.anchor)}" if self.names_help else said

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with the message alone, but several classes have required arguments.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[SegmindError], args: tuple[Any, ...], attributes: dict[str, Any]) -> SegmindError:
    """Unpickle an error."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def help_page(anchor: str) -> str:
    """Return where the documentation explains an error: an address if the installed package has one."""
    address = _documentation()
    return f"troubleshooting#{anchor}" if address is None else f"{address}/troubleshooting.md#{anchor}"


@cache
def _documentation() -> str | None:
    from importlib import metadata

    with suppress(metadata.PackageNotFoundError):
        for url in metadata.metadata("airflow-provider-segmind").get_all("Project-URL", []):
            name, _, address = url.partition(", ")
            if name == "Documentation":
                return str(address).rstrip("/")
    return None


_Raised = TypeVar("_Raised", bound=SegmindError)


def with_help(error: _Raised) -> _Raised:
    """
    Append to the message of an error where the documentation explains it.

    To be called where the error leaves the package: for the log of a task, the command and the caller of a hook. What
    is stored about a row or sent to another process has the message alone.
    """
    error.names_help = True
    return error


_Given = ParamSpec("_Given")
_Returned = TypeVar("_Returned")


def adds_help(method: Callable[_Given, _Returned]) -> Callable[_Given, _Returned]:
    """Append to the errors of a method where the documentation explains them."""

    @wraps(method)
    def call(*args: _Given.args, **kwargs: _Given.kwargs) -> _Returned:
        try:
            return method(*args, **kwargs)
        except SegmindError as error:
            with_help(error)
            raise

    return call


_NOTHING_SENT = (
    r"Nothing was (?:(?:sent|submitted)(?: (?:or|and nothing was) billed)?(?= in this try\b|[.;,]|$)|(billed)(?=;))"
)
"""Not compiled here: every DAG parse imports this module."""


def after_sending(error: SegmindError, before: str) -> None:
    """
    Correct a message that says "Nothing was sent" or "billed" about one step when something was sent before that step.

    :param before: what was sent before, as a clause.
    """

    def more(found: re.Match[str]) -> str:
        return f"Nothing more was {found[1] or 'sent'}; {before}"

    error.args = tuple(re.sub(_NOTHING_SENT, more, part) if isinstance(part, str) else part for part in error.args)


@contextmanager
def before_sending() -> Iterator[None]:
    """Add to the error of an invalid argument that nothing was sent; at DAG parse that goes without saying."""
    try:
        yield
    except SegmindConfigError as error:
        message = str(error.args[0]) if error.args else ""
        if message and not re.search(_NOTHING_SENT, message):
            error.args = (f"{message} Nothing was sent.", *error.args[1:])
        raise


class SegmindConfigError(SegmindError):
    """A connection or an argument is invalid. Nothing was sent."""

    anchor = "invalid-configuration"


class SegmindRowError(SegmindConfigError):
    """The values of one row of a table cannot be sent; other rows are not affected. Nothing was sent for it."""

    anchor = "row-that-cannot-be-sent"


class SegmindAPIError(SegmindError):
    """
    A call to Segmind failed.

    :param message: what was tried, what came back, what it costs, what to do.
    :param status_code: HTTP status of the response, None when there was none.
    :param request_id: the request that the call was about, if any.
    :param body: the server's message, at most 200 characters, secrets masked.
    """

    anchor = "call-failed"
    gateway: bool = False
    """Whether something in front of Segmind responded (a redirect, a gateway's 5xx, an HTML page), so that the response
    says nothing about the call itself."""

    def __init__(
        self, message: str, *, status_code: int | None = None, request_id: str | None = None, body: str | None = None
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.request_id = request_id
        self.body = None if body is None else shorten(mask_known(body))


class SegmindConnectionError(SegmindAPIError):
    """There was no response, and no paid call can have arrived. A retry may help."""

    anchor = "no-connection"
    retryable = True


class SegmindSubmissionUnknownError(SegmindAPIError):
    """A paid call may or may not have arrived. It is never sent again automatically."""

    anchor = "unknown-submission"
    billed = None


class SegmindAuthenticationError(SegmindAPIError):
    """The API key is missing or Segmind refuses it (HTTP 401)."""

    anchor = "api-key-refused"


class SegmindPermissionError(SegmindAPIError):
    """The key is valid, but the account may not do this (HTTP 403)."""

    anchor = "not-permitted"


class SegmindModelNotFoundError(SegmindAPIError):
    """Segmind has no model of this name (HTTP 404 on submit)."""

    anchor = "model-not-found"


class SegmindModelRetiredError(SegmindAPIError):
    """Segmind has retired the model (HTTP 410)."""

    anchor = "model-retired"


class SegmindBadRequestError(SegmindAPIError):
    """Segmind refuses the call (HTTP 400, 405, 406, 413, 422 on submit, other 4xx)."""

    anchor = "request-refused"


class SegmindCreditsError(SegmindAPIError):
    """The account cannot pay (HTTP 402, or 406 that mentions credits or a spend limit)."""

    anchor = "insufficient-credits"


class SegmindRateLimitError(SegmindAPIError):
    """
    Too many calls (HTTP 429), even after all retries of the client.

    :param retry_after: seconds until the limit resets, None when the server does not say.
    """

    anchor = "rate-limit"
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
    """Segmind responded 5xx or 408 to a free call until the client's retries ended. A retry of the task may help."""

    anchor = "server-error"
    retryable = True


class SegmindResponseError(SegmindAPIError):
    """
    The response breaks the contract: no request id, not JSON, a redirect, a proxy's HTML page.

    :param billed: None after a paid call that may have been carried out; True for a missing file of a result; False
        if no paid call was sent, or something in front of Segmind refused it.
    :param retryable: True if something in front of Segmind responded and nothing was created, for a file of a result,
        and for a free call whose response was cut off.
    """

    anchor = "unexpected-response"

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
    The response is larger than the limit of the connection and was not read to its end.

    :param billed: True for the result of a request, None after a paid call, False otherwise.
    """

    anchor = "response-too-large"


class SegmindRequestError(SegmindError):
    """
    The outcome of a request that Segmind accepted.

    :param request_id: the request.
    """

    anchor = "request-without-a-result"

    def __init__(self, message: str, *, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id


class SegmindRequestFailedError(SegmindRequestError):
    """
    Segmind reports FAILED, content blocks included. Nothing was billed; waiting again will not help.

    :param reason: Segmind's message, at most 200 characters.
    """

    anchor = "request-failed"
    cost: float = 0.0
    """USD as billed."""

    def __init__(self, message: str, *, request_id: str, reason: str = "") -> None:
        super().__init__(message, request_id=request_id)
        self.reason = shorten(mask_known(reason))


class SegmindRequestExpiredError(SegmindRequestError):
    """
    The result is gone: Segmind keeps results for an hour after submission.

    :param age: seconds since submission, None when unknown.
    :param cost: USD as billed according to the request record, None when unknown.
    """

    anchor = "result-expired"
    billed = True

    def __init__(self, message: str, *, request_id: str, age: float | None = None, cost: float | None = None) -> None:
        super().__init__(message, request_id=request_id)
        self.age = age
        self.cost = cost


class SegmindRequestTimeoutError(SegmindRequestError):
    """Our deadline passed. There is no cancel call: the request continues and may be billed; a retry re-attaches."""

    anchor = "deadline-passed"
    billed = True
    retryable = True


class SegmindReplyError(SegmindError):
    """
    The model replied, and the reply was billed, but it cannot be used.

    :param reason: ``empty``, ``truncated``, ``blocked`` or ``invalid``.
    :param reply: the first 200 characters of the reply.
    """

    anchor = "unusable-reply"
    billed = True

    def __init__(self, message: str, *, reason: str, reply: str = "", request_id: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.reply = shorten(mask_known(reply))
        self.request_id = request_id


class SegmindDownloadError(SegmindError):
    """
    A file of a result was not downloaded: its address is not public, or it exceeded the limits of size or time.

    The request was billed. Segmind keeps the file for seven days.

    :param refused: whether the address is the reason; then nothing was sent there.
    """

    anchor = "file-not-downloaded"
    billed = True

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class SegmindStateError(SegmindError):
    """The record of an earlier try cannot be read. Unreadable is not absent: nothing is submitted until it can be."""

    anchor = "unreadable-record"
    retryable = True


class SegmindPausedError(SegmindError):
    """Spending is paused for the whole deployment. Nothing was sent; a retry checks again."""

    anchor = "spending-paused"
    retryable = True
    retries_exhausted = True


class SegmindBudgetError(SegmindError):
    """
    A budget has no room for what a paid call may cost. Nothing was sent.

    :param resets_at: epoch second at which the budget's next day or month begins, None if the call costs more than a
        whole day or month allows.
    :param ask_again_in: seconds after which there may be room, because only what other requests have reserved is in the
        way, and their bills are usually lower; None if the budget is used up. Then a retry does not help.
    """

    anchor = "budget-exhausted"
    retries_exhausted = True

    def __init__(self, message: str, *, resets_at: float | None, ask_again_in: float | None = None) -> None:
        super().__init__(message)
        self.resets_at = resets_at
        self.ask_again_in = ask_again_in
        self.retryable = ask_again_in is not None


class SegmindInFlightError(SegmindError):
    """As many paid requests are in flight as ``max_paid_in_flight`` allows. Nothing was sent; a retry checks again."""

    anchor = "too-many-in-flight"
    retryable = True
    retries_exhausted = True


class SegmindEnrichmentError(SegmindError):
    """
    An enrichment could not be completed as configured.

    :param retryable: True when the ledger could not be read or rows remain for a retry.
    """

    anchor = "incomplete-table"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
