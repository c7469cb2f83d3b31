"""What operator arguments must be, checked when the DAG is parsed, and what is checked before anything is paid."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from types import FunctionType
from typing import Any, get_args

from airflow_provider_segmind.compat import SET_DURING_EXECUTION
from airflow_provider_segmind.exceptions import SegmindConfigError, shorten


def is_path(value: Any) -> bool:
    """Tell whether a value is the object of a path; on some versions an ObjectStoragePath is no ``os.PathLike``."""
    return isinstance(value, os.PathLike) or hasattr(type(value), "joinpath")


def path_text(value: Any) -> str:
    """Return the text of a path; that of an ObjectStoragePath names its store and its connection."""
    return str(value) if hasattr(type(value), "joinpath") else os.fspath(value)


def path_or_none(value: Any) -> str | None:
    """Return the text of a path that need not be given."""
    return path_text(value) if value else None


def check_path(name: str, value: Any, *, none: bool = False) -> None:
    """
    Check a path: a string, a ``pathlib.Path`` or an ObjectStoragePath.

    :param none: whether it need not be given.
    :raises SegmindConfigError: it is something else, or empty.
    """
    if is_given_later(value) or is_path(value) or (none and value in (None, "")):
        return
    if not isinstance(value, str) or not value:
        raise SegmindConfigError(f"{name!r} is {value!r}; it must be a path: a string, a Path or an ObjectStoragePath.")


def is_resolvable(value: Any) -> bool:
    """
    Tell whether a value is an object that Airflow resolves when the task runs.

    That is what its renderer asks: XComArg, the argument of a mapped task group, ``dag.param()``, ``literal()``… A path
    has a method of this name that means something else, and so has a Param, which stands for no value.
    """
    kind = type(value)
    return hasattr(kind, "resolve") and not is_path(value) and not hasattr(kind, "dump")


def is_given_later(value: Any) -> bool:
    """Tell whether a value is only known when the task runs: a template, what Airflow resolves or calls then."""
    if isinstance(value, str):
        return "{{" in value or "{%" in value
    return value is SET_DURING_EXECUTION or is_resolvable(value) or isinstance(value, FunctionType)


def holds_later(value: Any) -> bool:
    """Tell whether a value, or anything in it, is only known when the task runs."""
    if isinstance(value, Mapping):
        return any(holds_later(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(holds_later(item) for item in value)
    return is_given_later(value)


def check_model(model: Any) -> None:
    """
    Check ``model`` at parse time.

    :raises SegmindConfigError: it is neither a name nor given later; None means the connection's default.
    """
    if model is None or is_given_later(model):
        return
    if not isinstance(model, str) or not model.strip():
        raise SegmindConfigError(f"'model' is {model!r}; it must be the name of a Segmind model.")


def check_inputs(inputs: Any) -> None:
    """
    Check ``inputs`` at parse time.

    :raises SegmindConfigError: they are no object.
    """
    if not is_given_later(inputs) and not isinstance(inputs, Mapping):
        raise SegmindConfigError(
            f"'inputs' is {type(inputs).__name__}; it must be an object (dict) as the model's page describes it."
        )


def check_number(name: str, value: Any, *, zero: bool = False) -> None:
    """
    Check a number of seconds, bytes or times.

    :param zero: whether 0 is allowed.
    :raises SegmindConfigError: it is no number, or too small.
    """
    if is_given_later(value):
        return
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        raise SegmindConfigError(f"{name!r} is {value!r}; it must be a number {'of at least' if zero else 'above'} 0.")


def check_waiting(*, sync_wait: Any, poll_interval: Any, timeout: Any) -> None:
    """
    Check what says how long and how often to wait.

    :raises SegmindConfigError: one of them is no number, or too small.
    """
    check_number("sync_wait", sync_wait, zero=True)
    if poll_interval is not None:
        check_number("poll_interval", poll_interval)
    check_number("timeout", timeout)


def check_share(rate_share: Any) -> None:
    """
    Check a part of the account's rate limit.

    :raises SegmindConfigError: it is no number above 0 up to 1.
    """
    if rate_share is not None:
        check_number("rate_share", rate_share)
        if not is_given_later(rate_share) and rate_share > 1:
            raise SegmindConfigError(f"'rate_share' is {rate_share!r}; it must be above 0 and at most 1.")


def check_flag(name: str, value: Any, *, none: bool = False) -> None:
    """
    Check a switch.

    :param none: whether None is allowed.
    :raises SegmindConfigError: it is no boolean.
    """
    if not is_given_later(value) and not isinstance(value, bool) and not (none and value is None):
        raise SegmindConfigError(f"{name!r} is {value!r}; it must be True or False.")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """
    Check a policy.

    :param choices: the ``Literal`` of what it may be.
    :raises SegmindConfigError: it is something else.
    """
    allowed = get_args(choices)
    if not is_given_later(value) and value not in allowed:
        raise SegmindConfigError(f"{name!r} is {value!r}; it must be one of {', '.join(map(repr, allowed))}.")


def check_schema(name: str, schema: Any) -> None:
    """
    Check a JSON Schema at parse time; a path is read when the task runs.

    :raises SegmindConfigError: it is no schema.
    """
    if schema is None or isinstance(schema, str) or is_path(schema) or holds_later(schema):
        return
    if not isinstance(schema, Mapping):
        raise SegmindConfigError(f"{name!r} is {type(schema).__name__}; it must be a JSON Schema or the path of one.")
    import jsonschema

    try:
        jsonschema.validators.validator_for(schema).check_schema(dict(schema))
    except jsonschema.SchemaError as error:
        raise SegmindConfigError(f"{name!r} is no JSON Schema: {error.message} at {error.json_path}.") from error


def load_schema(name: str, schema: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    """
    Return a schema, read from its path (any ObjectStoragePath URI) when it is one.

    :raises SegmindConfigError: there is no such file, or no schema in it.
    """
    if isinstance(schema, Mapping):
        return schema
    schema = path_text(schema)
    from airflow_provider_segmind.compat import ObjectStoragePath

    try:
        loaded = json.loads(ObjectStoragePath(schema).read_text())
    except FileNotFoundError as error:
        raise SegmindConfigError(f"{name!r} names {schema!r}, where there is no file. Nothing was sent.") from error
    except ValueError as error:
        raise SegmindConfigError(f"{name!r} names {schema!r}, which is no JSON. Nothing was sent.") from error
    check_schema(name, loaded)
    return dict(loaded)


def validate_inputs(inputs: Mapping[str, Any], schema: Mapping[str, Any], name: str = "'inputs_schema'") -> None:
    """
    Check the body against a schema before anything is paid.

    :param name: what messages call the schema.
    :raises SegmindConfigError: it does not fit; the message names where and which rule, never the value.
    """
    import jsonschema
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # An empty registry keeps jsonschema from fetching a remote $ref over the network.
    validator = jsonschema.validators.validator_for(schema)(schema, registry=Registry())
    try:
        problems = sorted(validator.iter_errors(inputs), key=lambda problem: problem.json_path)
    except Unresolvable as error:
        raise SegmindConfigError(
            f"{name} refers to {shorten(repr(error.ref))}, which is not in it; put it under '$defs'. Nothing was sent."
        ) from error
    if problems:
        said = "; ".join(f"{problem.json_path} breaks {_rule(problem)}" for problem in problems[:3])
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise SegmindConfigError(f"'inputs' do not fit {name}: {said}{more}. Nothing was sent or billed.")


def _rule(problem: Any) -> str:
    return f"{problem.validator!r}: {shorten(json.dumps(problem.validator_value, default=str))}"


def as_inputs(value: Any) -> Mapping[str, Any]:
    """
    Return what a template made of ``inputs``: an object, or the text of one.

    :raises SegmindConfigError: it is neither.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise SegmindConfigError(
                "'inputs' is text that is no JSON after templating; it must be an object: end the template with "
                "'| tojson', or set render_template_as_native_obj on the DAG. Nothing was sent."
            ) from error
    check_inputs(value)
    result: Mapping[str, Any] = value
    return result
