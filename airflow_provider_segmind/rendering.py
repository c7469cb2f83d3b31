"""
Where Airflow's templating meets a task's arguments: what is rendered, what is data, and what is stored of it.

A value that comes out of XCom is data and arrives byte for byte. Airflow holds to that except for
``expand_kwargs()``, whose values it renders (airflow#33733), so that a stray ``{{ conn… }}`` in a customer's letter
would read secrets. Rendering as native objects makes numbers and lists of texts; a text field keeps its text. Airflow
stores the rendered fields before a task runs; what is masked is wrapped until the request is built.

Every DAG parse imports this module, so it imports neither jinja2 nor the core.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_segmind.arguments import (
    check_nonempty,
    is_given_later,
    is_path,
    is_resolvable,
)
from airflow_provider_segmind.compat import SET_DURING_EXECUTION
from airflow_provider_segmind.exceptions import SegmindConfigError

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import BaseOperator, Context

    _Operator = BaseOperator
else:
    _Operator = object
TEXT_FIELDS = frozenset(
    {
        *("prompt", "system", "model", "segmind_conn_id", "output_path", "state_path", "ledger_path", "report_path"),
        *("sql", "source_table", "target_table", "sql_conn_id", "target_conn_id"),
    }
)
"""Templated fields that hold one text, whatever it looks like."""
TEXT_OR_DATA_FIELDS = frozenset({"files", "key", "request_id", "source", "submitted_at"})
"""Templated fields that hold texts, or data of texts."""
MESSAGE_TEXTS = frozenset({"role", "content", "text"})
"""What is a text inside a message; its other values have types of their own."""
PROMPT_FIELDS = frozenset({"prompt", "system", "messages", "inputs", "op_args", "op_kwargs"})
"""Templated fields in which a prompt, and with it personal data, can be."""
ARGUMENTS = {"estimate_only": "dry_run"}
"""What an attribute is called as an argument, where the names differ."""
MASK = "*** (masked by mask_prompts)"
"""What Airflow stores and shows in the place of a masked field."""
_LITERALS = {"true": True, "false": False, "none": None, "": None}
LONGEST_NUMBER = 400
"""Characters of a number; Python itself reads an integer of no more than 4,300 digits."""
_NUMBER = re.compile(r"[+-]?(\d+|\d*\.\d+|\d+\.\d*)([eE][+-]?\d+)?")


class MaskedValue:
    """A rendered value that Airflow may neither store nor show; :func:`unmasked` returns it."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def serialize(self) -> str:
        """Return what Airflow stores in the rendered fields."""
        return MASK

    def __repr__(self) -> str:
        return MASK


def unmasked(value: Any) -> Any:
    """Return a field's value, masked or not."""
    return value.value if isinstance(value, MaskedValue) else value


class TemplatedOperator(_Operator):
    """
    An operator or sensor whose arguments may be known only when it runs.

    What is not templated can be given later as well (``timeout="{{ params.seconds }}"``, an argument of a mapped task
    group): it then becomes a template field of that one task.
    """

    late_fields: ClassVar[Sequence[str]] = ()
    """Attributes that are checked at DAG parse and are no template fields, unless given later."""
    mask_prompts: bool | None = None
    mapped_arguments: Mapping[str, Any] | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Keep what a mapped task was built from: which of it is data is known when it is rendered."""
        self = super().__new__(cls)
        if kwargs.get("_airflow_from_mapped"):
            object.__setattr__(self, "mapped_arguments", kwargs)
        return self

    def find_late_fields(self) -> None:
        """Make template fields of the arguments that are given later; the last step of a constructor."""
        late = [
            name
            for name in self.late_fields
            if name not in self.template_fields and is_given_later(self.__dict__.get(name))
        ]
        if late:
            self.template_fields = (*self.template_fields, *late)

    def check_arguments(self) -> None:
        """
        Check the arguments that have a range or a choice; called at DAG parse and again when they are rendered.

        :raises SegmindConfigError: one cannot work; names it.
        """

    def check_rendered(self) -> None:
        """
        Check the arguments as they are when the task runs.

        :raises SegmindConfigError: one cannot work, or was not resolved; names it. Nothing was sent.
        """
        for name in (*self.template_fields, *self.late_fields):
            _check_resolved(name, getattr(self, name), any_text=name not in self.late_fields)
        self.check_arguments()

    def finish_rendering(self) -> None:
        """Do what is to be done with rendered fields before Airflow stores them."""

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: Any,
        seen_oids: set[int],
        **kwargs: Any,
    ) -> None:
        """Render; Airflow calls this for a plain and for a mapped task."""
        if parent is not self:
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids, **kwargs)
            return
        data = data_arguments(self, context)
        environments = jinja_env, _text_environment(jinja_env)
        # Airflow names the fields of the class for a mapped task, and those given later are this task's own.
        for name in dict.fromkeys([*template_fields, *self.template_fields]):
            value = getattr(self, name)
            if value is None:
                continue
            if name == "op_kwargs":
                value = _render_function_arguments(self, value, context, jinja_env, seen_oids, data)
            elif name not in data:
                # Airflow takes the XComArg in expand_kwargs([{...: XComArg}]) itself for what came out of XCom.
                seen = seen_oids - {id(value)} if is_resolvable(value) else seen_oids
                value = value if id(value) in seen else _render_field(self, name, value, context, environments, seen)
            setattr(self, name, _literal(value) if name in self.late_fields else value)
        self.finish_rendering()
        self._mask()

    def _mask(self) -> None:
        if not _masks(self.mask_prompts):
            return
        for name in PROMPT_FIELDS.intersection(self.template_fields):
            if getattr(self, name) not in (None, SET_DURING_EXECUTION, (), {}):
                setattr(self, name, MaskedValue(unmasked(getattr(self, name))))


def data_arguments(task: TemplatedOperator, context: Any) -> frozenset[str]:
    """
    Return which arguments of a mapped task came out of XCom: names of fields, and ``op_kwargs.name`` of a function's.

    What the DAG's author wrote in ``partial()``, or literally in ``expand()`` and ``expand_kwargs()``, is none of them.
    Where Airflow does not tell, everything that is not from ``partial()`` is data: an unrendered template does no harm.
    """
    built_from = task.mapped_arguments
    if built_from is None:
        return frozenset()
    dag = task.get_dag()
    mapped = dag.task_dict.get(task.task_id) if dag is not None else None
    fixed = getattr(mapped, "partial_kwargs", {})
    mapped_names = _names_from_xcom(mapped, context)
    names = _mapped(built_from, fixed)
    functions = _mapped(built_from.get("op_kwargs") or {}, fixed.get("op_kwargs") or {})
    if "op_kwargs" in built_from:
        # A function's arguments are mapped, and nothing else of its task.
        return frozenset(f"op_kwargs.{name}" for name in functions if mapped_names is None or name in mapped_names)
    return frozenset(name for name in names if mapped_names is None or name in mapped_names)


def _mapped(built_from: Mapping[str, Any], fixed: Mapping[str, Any]) -> set[str]:
    return {name for name, value in built_from.items() if not (name in fixed and fixed[name] is value)}


def _names_from_xcom(mapped: Any, context: Any) -> set[str] | None:
    """Return which mapped arguments come out of XCom, None for all of them."""
    try:
        given = mapped._get_specified_expand_input().value  # noqa: SLF001 - Airflow tells it nowhere else
    except AttributeError:
        return None
    if isinstance(given, Mapping):
        return {name for name, value in given.items() if is_given_later(value)}
    if isinstance(given, list | tuple) and isinstance(given[context["ti"].map_index], Mapping):
        return set()
    return None


def _render_function_arguments(
    task: Any, given: Mapping[str, Any], context: Any, jinja_env: Any, seen: set[int], data: frozenset[str]
) -> dict[str, Any]:
    return {
        name: value if f"op_kwargs.{name}" in data else task.render_template(value, context, jinja_env, seen)
        for name, value in given.items()
    }


def _render_field(task: Any, name: str, value: Any, context: Any, environments: Any, seen: set[int]) -> Any:
    jinja_env, texts = environments
    if callable(value) and not is_resolvable(value):
        return value(context=context, jinja_env=jinja_env)

    def render(part: Any) -> Any:
        return task.render_template(part, context, jinja_env, seen)

    def text(part: str) -> Any:
        return _render_text(part, context, texts, task.template_ext)

    if name in TEXT_FIELDS and isinstance(value, str):
        return text(value)
    if name in TEXT_OR_DATA_FIELDS:
        return _render_texts(value, render, text)
    if name == "messages" and not isinstance(value, str):
        return _render_messages(value, render, text)
    return render(value)


def _render_texts(value: Any, render: Any, text: Any) -> Any:
    """Render what is a text, or data of texts, which native rendering may have read out of a text."""
    if isinstance(value, list):
        return [_render_texts(item, render, text) for item in value]
    if not isinstance(value, str):
        return render(value)
    rendered = text(value)
    if isinstance(rendered, str) and rendered.lstrip().startswith(("[", "{", "(")):
        native = render(value)
        return native if isinstance(native, Mapping | list | tuple) else rendered
    return rendered


def _render_messages(value: Any, render: Any, text: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _render_messages(item, render, text, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_render_messages(item, render, text) for item in value]
    return text(value) if isinstance(value, str) and key in MESSAGE_TEXTS else render(value)


def _text_environment(jinja_env: Any) -> Any:
    """Return an environment whose texts stay texts; an expression that is an object as a whole stays one."""
    environment = jinja_env.overlay()
    environment.concat = _joined
    return environment


def _joined(parts: Iterable[Any]) -> Any:
    parts = list(parts)
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]
    return "".join(str(part) for part in parts)


def _render_text(value: str, context: Any, environment: Any, extensions: Sequence[str]) -> Any:
    """Render as Airflow does, which keeps its context lazy, and return a text; None and data stay what they are."""
    import copy

    template = environment.get_template(value) if value.endswith(tuple(extensions)) else environment.from_string(value)
    names = copy.copy(context)
    for name, item in template.globals.items():
        if name not in names:
            names[name] = item
    try:
        context_of = environment.context_class(environment, names, template.name, template.blocks)
        rendered = _joined(template.root_render_func(context_of))
    except Exception:  # noqa: BLE001 - as Airflow: it raises again, with the template's line in the traceback
        environment.handle_exception()
    if rendered is None or isinstance(rendered, Mapping | list | tuple | set | bytes) or _is_lazy(rendered):
        return rendered
    return str(rendered)


def _is_lazy(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _literal(value: Any) -> Any:
    """Read a number or a switch out of what a template made of it."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if len(text) <= LONGEST_NUMBER and _NUMBER.fullmatch(text):
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    return _LITERALS.get(text.lower(), value)


def _check_resolved(name: str, value: Any, *, any_text: bool) -> None:
    shown = ARGUMENTS.get(name, name)
    if value is SET_DURING_EXECUTION or (isinstance(value, str) and (any_text or not is_given_later(value))):
        return
    if is_given_later(value):
        raise SegmindConfigError(
            f"{shown!r} is still a {type(value).__name__} when the task runs: Airflow did not resolve it. Nothing was "
            "sent."
        )
    value = unmasked(value)
    if name in TEXT_FIELDS and not (value is None or isinstance(value, str | os.PathLike) or is_path(value)):
        raise SegmindConfigError(
            f"{shown!r} is a {type(value).__name__} when the task runs: it must be a string. Its template or XCom "
            "holds something else, which render_template_as_native_obj leaves as it is; end the template with "
            "'| tojson' or '| string' to send it as text. Nothing was sent."
        )


def _masks(given: bool | None) -> bool:
    if given is not None:
        return given
    from airflow_provider_segmind.compat import conf

    return bool(conf.getboolean("segmind", "mask_prompts", fallback=False))


_TEXT_FILE = re.compile(r"[^\s{}]+\.(md|txt|json)")


def named_files(**texts: Any) -> dict[str, str]:
    """Return which texts are as a whole the path of a file to read them from."""
    return {name: text for name, text in texts.items() if isinstance(text, str) and _TEXT_FILE.fullmatch(text)}


def read_text_file(jinja_env: Any, field: str, path: str) -> str:
    """
    Read a prompt's file from where Airflow looks for templates: the DAG's folder and its ``template_searchpath``.

    :raises SegmindConfigError: there is none.
    """
    from jinja2 import TemplateNotFound

    try:
        if jinja_env.loader is None:
            raise TemplateNotFound(path)
        text: str = jinja_env.loader.get_source(jinja_env, path)[0]
    except TemplateNotFound as error:
        raise SegmindConfigError(
            f"{field!r} is {path!r}, which names a file, and there is none beside the DAG or in its "
            "template_searchpath. To send these very words, add a space or a full stop to them."
        ) from error
    check_nonempty(field, text)
    return text
