"""
How Airflow's templating applies to a task's arguments: what is rendered, what is data, and what Airflow stores.

A value from XCom is data and arrives byte for byte. Airflow guarantees that except for ``expand_kwargs()``, whose
values it renders (airflow#33733), so that a stray ``{{ conn… }}`` in a customer's letter would read secrets. Rendering
as native objects turns strings into numbers and lists; a string field keeps its string. Airflow stores the rendered
fields before a task runs; masked ones are wrapped until the request is built.

Every DAG parse imports this module, so it imports neither jinja2 nor the core.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from airflow_provider_segmind.argument_names import check_argument_names, check_constructor, check_expansion
from airflow_provider_segmind.arguments import (
    SECONDS,
    check_nonempty,
    is_called_later,
    is_given_later,
    is_path,
    is_resolvable,
)
from airflow_provider_segmind.compat import SET_DURING_EXECUTION
from airflow_provider_segmind.defaults import as_seconds
from airflow_provider_segmind.exceptions import SegmindConfigError, adds_help, before_sending, type_name

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import BaseOperator, Context
    from airflow_provider_segmind.type_hints import GivenLater

    _Operator = BaseOperator
else:
    _Operator = object
T = TypeVar("T")
STRING_FIELDS = frozenset(
    {
        *("prompt", "system", "model", "segmind_conn_id", "output_path", "state_path", "ledger_path"),
        "answers_path",
        *("sql", "target_table", "sql_conn_id", "target_conn_id"),
    }
)
"""Templated fields whose value is always a string."""
STRUCTURED_STRING_FIELDS = frozenset({"files", "key", "request_id", "source"})
"""Templated fields whose value is a string or a structure of strings."""
MESSAGE_STRING_KEYS = frozenset({"role", "content", "text"})
"""Keys of a message whose values are strings; other values have their own types."""
INPUT_STRING_KEYS = MESSAGE_STRING_KEYS | {"prompt", "negative_prompt", "system"}
"""Keys of ``inputs`` whose values are strings for every model that has them."""
PROMPT_FIELDS = frozenset({"prompt", "system", "messages", "inputs", "op_args", "op_kwargs"})
"""Templated fields that may contain a prompt, and with it personal data."""
ARGUMENTS = {"estimate_only": "dry_run"}
"""The arguments of attributes with another name."""
MASKED_TEXT = "*** (masked by mask_prompts)"
"""What Airflow stores and shows instead of a masked field."""
_LITERALS = {"true": True, "false": False, "none": None, "": None}
LONGEST_NUMBER = 400
"""Longest number in characters; Python reads integers of at most 4,300 digits."""
_NUMBER = r"[+-]?(\d+|\d*\.\d+|\d+\.\d*)([eE][+-]?\d+)?"


PACKAGE = f"{__package__}."


class MaskedValue:
    """A rendered value that Airflow must not store or show; :func:`unmasked` returns it."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def serialize(self) -> str:
        """Return what Airflow stores in the rendered fields."""
        return MASKED_TEXT

    def __repr__(self) -> str:
        return MASKED_TEXT


def subclass_mark(operator: str) -> str:
    """Return the suffix of the operator name of a subclass of one of our operators."""
    return f" ({operator})"


def once_rendered(value: T | GivenLater) -> T:
    """Return an argument unchanged, with the type it has when the task runs: rendered, and resolved by Airflow."""
    return value  # type: ignore[return-value]


def unmasked(value: Any) -> Any:
    """Return a field's value, masked or not."""
    return value.value if isinstance(value, MaskedValue) else value


def _constructor(init: Callable[..., None]) -> Callable[..., None]:
    helped = adds_help(init)

    @wraps(init)
    def construct(self: TemplatedOperator, *args: Any, **kwargs: Any) -> None:
        if self.mapped_arguments is None:
            helped(self, *args, **kwargs)
            return
        from airflow_provider_segmind.failures import task_failures

        with task_failures():
            init(self, *args, **kwargs)

    return construct


class TemplatedOperator(_Operator):
    """
    An operator or sensor whose arguments may be known only when it runs.

    An argument that is not a template field may be given later as well (``timeout="{{ params.seconds }}"``, an argument
    of a mapped task group): it then becomes a template field of that task.
    """

    late_fields: ClassVar[Sequence[str]] = ()
    """Attributes that are checked at DAG parse and are template fields only when given later."""
    decided_arguments: ClassVar[Mapping[str, str]] = {}
    """Arguments of a base class that this class decides, and how, for the error about them."""
    mask_prompts: bool | None = None
    mapped_arguments: Mapping[str, Any] | None = None
    if TYPE_CHECKING:
        custom_operator_name: str

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """
        Add the name of our class to that of a subclass; the metadata database has only the name of an operator.

        The command and the page recognize it by that. Airflow's UI shows it as ``MyOperator (SegmindChatOperator)``.
        An error of a constructor of ours, which is an import error of the DAG, says where it is explained. A mapped
        task is constructed by its worker: there it is a failure of the task, which no retry can help.
        """
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith(PACKAGE) and "__init__" in vars(cls):
            type.__setattr__(cls, "__init__", _constructor(vars(cls)["__init__"]))
        ours = next((one.__name__ for one in cls.__mro__ if one.__module__.startswith(PACKAGE)), "")
        inherited = getattr(cls, "custom_operator_name", None)
        if not cls.__module__.startswith(PACKAGE) and (inherited is None or inherited.endswith(subclass_mark(ours))):
            cls.custom_operator_name = f"{cls.__name__}{subclass_mark(ours)}"

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """
        Check the names, and keep the arguments of a mapped task: which of them are data is known only when they are
        rendered.
        """
        # Returning Any, it would keep type checkers from checking the arguments.
        check_constructor(cls, kwargs)
        self = super().__new__(cls)
        if kwargs.get("_airflow_from_mapped"):
            object.__setattr__(self, "mapped_arguments", kwargs)
        return self

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """Start a mapped task, with the names of its arguments checked."""
        check_argument_names(cls, kwargs, task_id=kwargs.get("task_id"))
        return check_expansion(super().partial(**kwargs))

    def find_late_fields(self) -> None:
        """Make arguments that are given later template fields; the last step of a constructor."""
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

        :raises SegmindConfigError: one is invalid; names it.
        """

    def check_rendered(self) -> None:
        """
        Check the arguments when the task runs.

        :raises SegmindConfigError: one is invalid or was not resolved; names it. Nothing was sent.
        """
        with before_sending():
            for name in (*self.template_fields, *self.late_fields):
                _check_resolved(name, getattr(self, name), any_string=name not in self.late_fields)
            self.check_arguments()

    def finish_rendering(self) -> None:
        """Adjust rendered fields before Airflow stores them."""

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
        environments = jinja_env, _string_environment(jinja_env)
        # For a mapped task Airflow passes the fields of the class; those given later belong to this task only.
        for name in dict.fromkeys([*template_fields, *self.template_fields]):
            value = getattr(self, name)
            if value is None:
                continue
            if name == "op_kwargs":
                value = _render_function_arguments(self, value, context, jinja_env, seen_oids, data)
            elif name not in data:
                # Airflow mistakes the XComArg in expand_kwargs([{...: XComArg}]) for a value from XCom.
                seen = seen_oids - {id(value)} if is_resolvable(value) else seen_oids
                value = value if id(value) in seen else _render_field(self, name, value, context, environments, seen)
            known = _literal(value) if name in self.late_fields else value
            setattr(self, name, as_seconds(known) if name in SECONDS else known)
        self.finish_rendering()
        self._mask()

    def _mask(self) -> None:
        if not masks_prompts(self.mask_prompts):
            return
        for name in PROMPT_FIELDS.intersection(self.template_fields):
            if getattr(self, name) not in (None, SET_DURING_EXECUTION, (), {}):
                setattr(self, name, MaskedValue(unmasked(getattr(self, name))))


def data_arguments(task: TemplatedOperator, context: Any) -> frozenset[str]:
    """
    Return the arguments of a mapped task that came from XCom: names of fields, and ``op_kwargs.name`` for a function.

    What the DAG's author wrote in ``partial()``, or literally in ``expand()`` and ``expand_kwargs()``, is not data.
    Where Airflow does not say, everything that is not from ``partial()`` is data: an unrendered template does no harm.
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
    try:
        given = mapped._get_specified_expand_input().value  # noqa: SLF001 - Airflow has no public accessor
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
    jinja_env, string_env = environments
    if is_called_later(value):
        return value(context=context, jinja_env=jinja_env)

    def render(part: Any) -> Any:
        return task.render_template(part, context, jinja_env, seen)

    def string(part: str) -> Any:
        return _render_string(part, context, string_env, task.template_ext)

    if name in STRING_FIELDS and isinstance(value, str):
        return string(value)
    if name in STRUCTURED_STRING_FIELDS:
        return _render_structure(value, render, string)
    if name == "messages" and not isinstance(value, str):
        return _render_messages(value, render, string)
    if name == "inputs" and not isinstance(value, str) and renders_natively(task):
        return _render_messages(value, render, _string_or(string, render), keys=INPUT_STRING_KEYS)
    return render(value)


def renders_natively(task: Any) -> bool:
    """Return whether Airflow makes numbers, lists and None of templates that render as such."""
    # An attribute of operators since Airflow 3.3.
    own = getattr(task, "render_template_as_native_obj", None)
    return bool(getattr(task.get_dag(), "render_template_as_native_obj", False) if own is None else own)


def _string_or(string: Callable[[str], Any], render: Callable[[Any], Any]) -> Callable[[str], Any]:
    """Return a renderer that keeps strings; a template that renders to other data is left to Airflow's renderer."""

    def rendered(value: str) -> Any:
        kept = string(value)
        return kept if isinstance(kept, str) else render(value)

    return rendered


def _render_structure(value: Any, render: Any, text: Any) -> Any:
    """Render a string, or a structure of strings that native rendering may produce from a string."""
    if isinstance(value, list):
        return [_render_structure(item, render, text) for item in value]
    if not isinstance(value, str):
        return render(value)
    rendered = text(value)
    if isinstance(rendered, str) and rendered.lstrip().startswith(("[", "{", "(")):
        native = render(value)
        return native if isinstance(native, Mapping | list | tuple) else rendered
    return rendered


def _render_messages(
    value: Any, render: Any, text: Any, key: str = "", keys: frozenset[str] = MESSAGE_STRING_KEYS
) -> Any:
    if isinstance(value, Mapping):
        return {name: _render_messages(item, render, text, name, keys) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_render_messages(item, render, text, key, keys) for item in value]
    return text(value) if isinstance(value, str) and key in keys else render(value)


def _string_environment(jinja_env: Any) -> Any:
    """Return an environment that keeps strings; a template that is a single expression keeps its object."""
    environment = jinja_env.overlay()
    environment.concat = _joined
    return environment


def _joined(parts: Iterable[Any]) -> Any:
    parts = list(parts)
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]
    return "".join(str(part) for part in parts)


def _render_string(value: str, context: Any, environment: Any, extensions: Sequence[str]) -> Any:
    """Render with a lazy context, as Airflow does, and return a string; None and structures are returned unchanged."""
    import copy

    template = environment.get_template(value) if value.endswith(tuple(extensions)) else environment.from_string(value)
    names = copy.copy(context)
    for name, item in template.globals.items():
        if name not in names:
            names[name] = item
    try:
        context_of = environment.context_class(environment, names, template.name, template.blocks)
        rendered = _joined(template.root_render_func(context_of))
    except Exception:  # noqa: BLE001 - as in Airflow: raised again, with the template's line in the traceback
        environment.handle_exception()
    if rendered is None or isinstance(rendered, Mapping | list | tuple | set | bytes) or _is_lazy(rendered):
        return rendered
    return str(rendered)


def _is_lazy(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _literal(value: Any) -> Any:
    """Return the number or boolean that a template rendered as a string."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if len(text) <= LONGEST_NUMBER and re.fullmatch(_NUMBER, text):
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    return _LITERALS.get(text.lower(), value)


def _check_resolved(name: str, value: Any, *, any_string: bool) -> None:
    shown = ARGUMENTS.get(name, name)
    if value is SET_DURING_EXECUTION or (isinstance(value, str) and (any_string or not is_given_later(value))):
        return
    if is_given_later(value):
        raise SegmindConfigError(
            f"{shown!r} is still {type_name(value)} when the task runs: Airflow did not resolve it. Nothing was sent."
        )
    value = unmasked(value)
    if name in STRING_FIELDS and not (value is None or isinstance(value, str | os.PathLike) or is_path(value)):
        raise SegmindConfigError(
            f"{shown!r} is {type_name(value)} when the task runs; it must be a string. Its template or XCom "
            "has another type, which render_template_as_native_obj keeps: end the template with '| tojson' or "
            "'| string' to send it as a string. Nothing was sent."
        )


def masks_prompts(given: bool | None) -> bool:
    """Return whether a task keeps its prompts out of what is stored: its ``mask_prompts``, else the configuration's."""
    if given is not None:
        return given
    from airflow_provider_segmind.compat import conf

    return bool(conf.getboolean("segmind", "mask_prompts", fallback=False))


_TEXT_FILE = re.compile(r"[^\s{}]+\.(md|txt|json)")


def named_files(**texts: Any) -> dict[str, str]:
    """Return the strings that are the path of a file to read them from."""
    return {name: text for name, text in texts.items() if isinstance(text, str) and _TEXT_FILE.fullmatch(text)}


def read_text_file(jinja_env: Any, field: str, path: str) -> str:
    """
    Read a prompt's file from where Airflow finds templates: the DAG's folder and its ``template_searchpath``.

    :raises SegmindConfigError: there is none.
    """
    from jinja2 import TemplateNotFound

    try:
        if jinja_env.loader is None:
            raise TemplateNotFound(path)
        text: str = jinja_env.loader.get_source(jinja_env, path)[0]
    except TemplateNotFound as error:
        raise SegmindConfigError(
            f"{field!r} is {path!r}, which names a file, but there is none next to the DAG or in its "
            "template_searchpath. To send this string itself, add a space or a full stop."
        ) from error
    check_nonempty(field, text)
    return text
