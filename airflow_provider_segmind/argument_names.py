"""
Which names an operator's arguments and their templates may have, and what an unknown one may have been meant for.

Airflow reports an unknown argument with its value, which may be a prompt, and without saying which one was meant.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from airflow_provider_segmind.exceptions import SegmindConfigError, did_you_mean, with_help

_VARIABLE = re.compile(r"\{\{-?\s*([^\W\d]\w*)\s*-?\}\}")
_PACKAGE = __name__.partition(".")[0]
OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "conn_id": ("segmind_conn_id",),
    "connection_id": ("segmind_conn_id",),
    "llm_conn_id": ("segmind_conn_id",),
    "http_conn_id": ("segmind_conn_id",),
    "model_id": ("model",),
    "slug": ("model",),
    "system_prompt": ("system",),
    "messages": ("prompt", "system"),
    "body": ("inputs",),
    "data": ("inputs",),
    "payload": ("inputs",),
    "images": ("files",),
    "attachments": ("files",),
    "response_format": ("output_type",),
    "response_model": ("output_type",),
    "schema": ("output_type",),
    "query": ("sql",),
    "source_table": ("sql",),
    "database_conn_id": ("sql_conn_id",),
    "table": ("target_table",),
    "path": ("source",),
    "input_path": ("source",),
}
"""Names that users may expect for an argument, with our names; those that the operator has are suggested."""
MODEL_OPTIONS = frozenset(
    {
        *("temperature", "top_p", "top_k", "seed", "stop", "stop_sequences", "n", "logprobs", "top_logprobs"),
        *("max_tokens", "max_output_tokens", "max_completion_tokens", "presence_penalty", "frequency_penalty"),
        *("reasoning_effort", "thinking", "verbosity", "web_search", "tools", "tool_choice", "stream", "logit_bias"),
        *("generation_config", "generationConfig", "safety_settings", "safetySettings", "negative_prompt"),
        *("aspect_ratio", "width", "height", "steps", "num_inference_steps", "guidance_scale", "resolution"),
    }
)
"""Parameters of models: they belong to ``options`` or ``inputs``."""


@functools.cache
def argument_names(kind: type) -> frozenset[str]:
    """Return the arguments of an operator: those of all constructors, without the ones that the class itself sets."""
    found: set[str] = set()
    for base in kind.__mro__:
        if "__init__" in vars(base) and base is not object:
            for name, parameter in inspect.signature(vars(base)["__init__"]).parameters.items():
                if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                    found.add(name)
    return frozenset(found - {"self"} - set(_decided(kind)))


def check_argument_names(kind: type, given: Iterable[str], *, task_id: object = None) -> None:
    """
    Check the names of an operator's arguments.

    :raises SegmindConfigError: one is unknown; names it and the task, and says what it may have been meant for.
    """
    known = argument_names(kind)
    unknown = [name for name in given if name not in known and not name.startswith("_airflow")]
    if unknown:
        problems = "; ".join(f"no argument {name!r}{_hint(name, known, _decided(kind))}" for name in unknown)
        kind_name = getattr(kind, "custom_operator_name", kind.__name__)
        raise with_help(
            SegmindConfigError(f"Task {task_id!r} ({kind_name}) has {problems}{'' if problems.endswith('?') else '.'}")
        )


def check_constructor(kind: type, given: Mapping[str, object]) -> None:
    """
    Check the names that an operator of this package is given.

    The constructor of a user's subclass may take arguments of its own; Airflow itself checks the arguments of a mapped
    task.
    """
    first = next(base for base in kind.__mro__ if "__init__" in vars(base))
    if _is_ours(first) and "_airflow_from_mapped" not in given:
        check_argument_names(kind, given, task_id=given.get("task_id"))


def check_expansion(partial: Any) -> Any:
    """Make Airflow's ``partial()`` object also check the names given to ``expand()`` and ``expand_kwargs()``."""
    kind: Any = type(partial)
    partial.__class__ = _checking(kind)
    return partial


@functools.cache
def _checking(kind: Any) -> type:
    class CheckedPartial(kind):  # type: ignore[misc]
        __slots__ = ()

        def expand(self, **given: Any) -> Any:
            check_argument_names(self.operator_class, given, task_id=self.kwargs.get("task_id"))
            hide = _hiding(self.operator_class)
            lists = {name: hide(name, value) for name, value in given.items() if isinstance(value, list | tuple)}
            return super().expand(**{**given, **lists})

        def expand_kwargs(self, kwargs: Any, **options: Any) -> Any:
            for given in kwargs if isinstance(kwargs, Sequence) else ():
                if isinstance(given, Mapping):
                    check_argument_names(self.operator_class, given, task_id=self.kwargs.get("task_id"))
            if isinstance(kwargs, list | tuple):
                hide = _hiding(self.operator_class)
                kwargs = [
                    {name: hide(name, [value])[0] for name, value in given.items()}
                    if isinstance(given, dict)
                    else given
                    for given in kwargs
                ]
            return super().expand_kwargs(kwargs, **options)

    return CheckedPartial


def _hiding(kind: Any) -> Callable[[str, Sequence[Any]], list[Any]]:
    """Return the function that wraps values of a mapped argument that must not be in the serialized DAG."""
    hide: Callable[[str, Any], Any] = getattr(kind, "hide_rows", lambda _, value: value)
    return lambda name, values: [hide(name, value) for value in values]


def _decided(kind: type) -> Mapping[str, str]:
    decided: Mapping[str, str] = getattr(kind, "decided_arguments", {})
    return decided


def _hint(name: str, known: Collection[str], decided: Mapping[str, str]) -> str:
    if name in decided:
        return f": {decided[name]}"
    if name in MODEL_OPTIONS and not {"options", "inputs"}.isdisjoint(known):
        place = "options" if "options" in known else "inputs"
        return f": it is a parameter of the model and belongs to {place}={{{name!r}: …}}"
    meant = next((other for other in OTHER_NAMES.get(name, ()) if other in known), name)
    return did_you_mean(meant, known)


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == _PACKAGE


def check_template_names(fields: Mapping[str, Any], macros: Collection[str]) -> None:
    """
    Check that no ``{{ column }}`` is written where ``{column}`` is meant.

    Only a variable by itself is checked, and nothing in a string with Jinja statements, which may define names.

    :param fields: arguments of a table by name.
    :param macros: names that the DAG defines.
    :raises SegmindConfigError: Jinja would render a name that Airflow does not define.
    """
    for field, value in fields.items():
        for text in _strings(value):
            for name in () if "{%" in text else _VARIABLE.findall(text):
                if name not in macros and name not in _template_names():
                    raise SegmindConfigError(
                        f"{field!r} contains '{{{{ {name} }}}}', which Jinja renders before any row is read, but "
                        f"Airflow and the DAG do not define {name!r}; a column of a table is written {{{name}}}."
                    )


@functools.cache
def _template_names() -> frozenset[str]:
    """Return the names that templates may use in every DAG: those of Airflow's context, and Jinja's own."""
    from jinja2.defaults import DEFAULT_NAMESPACE

    from airflow_provider_segmind.compat import KNOWN_CONTEXT_KEYS

    return frozenset({*KNOWN_CONTEXT_KEYS, *DEFAULT_NAMESPACE, "true", "false", "none", "True", "False", "None"})


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)
