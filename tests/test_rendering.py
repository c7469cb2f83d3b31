"""Arguments that Airflow gives later, in every operator; what is masked of what it stores."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NewType

import jinja2
import pytest
from airflow.sdk import DAG, ObjectStoragePath, XComArg, task_group
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from airflow_provider_segmind.arguments import is_given_later, read_rerun
from airflow_provider_segmind.compat import AirflowFailException
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import (
    SegmindEnrichFileOperator,
    SegmindEnrichSqlOperator,
    SegmindMergeOperator,
)
from airflow_provider_segmind.operators.request import SegmindResultOperator, SegmindRunOperator, SegmindSubmitOperator
from airflow_provider_segmind.rendering import MASKED_TEXT, MaskedValue
from airflow_provider_segmind.sensors.request import SegmindRequestSensor
from tests.support.airflow_fakes import Run, TaskInstance
from tests.support.chat_tasks import Chat
from tests.support.examples import examples
from tests.support.tasks import chat, clock, emulator, run

__all__ = ["chat", "clock", "emulator", "run"]
FILE = {"source": "a.jsonl", "key": "id", "output_path": "b.jsonl", "prompt": "Say {x}", "ledger_path": "l"}
SQL = {"sql_conn_id": "c", "key": "id", "target_table": "t", "sql": "SELECT 1", "prompt": "Say {x}", "ledger_path": "l"}
LEAST: dict[type[Any], dict[str, Any]] = {
    SegmindSubmitOperator: {"inputs": {}},
    SegmindRunOperator: {"inputs": {}},
    SegmindChatOperator: {"prompt": "hello"},
    SegmindResultOperator: {"request_id": "r"},
    SegmindRequestSensor: {"request_id": "r"},
    SegmindEnrichFileOperator: FILE,
    SegmindEnrichSqlOperator: SQL,
    SegmindMergeOperator: {"manifests": [{}]},
}
"""The least that each operator has to be given."""
NAMES = {"estimate_only": "dry_run"}


class Seen:
    """Stands in a task group for the argument that Airflow maps."""

    value: Any = None


def mapped_argument(dag: DAG) -> Any:
    @task_group
    def group(given: Any) -> None:
        Seen.value = given
        SegmindChatOperator(task_id="inside", prompt="x")

    group.expand(given=["a", "b"])
    return Seen.value


def xcom(dag: DAG) -> XComArg:
    return SegmindSubmitOperator(task_id="above", inputs={}).output


def literal(dag: DAG) -> Any:
    try:
        from airflow.sdk import literal as wrap
    except ImportError:
        from airflow.utils.template import literal as wrap  # type: ignore[no-redef]
    return wrap("x")


GIVERS: dict[str, Callable[[DAG], Any]] = {
    "mapped": mapped_argument,
    "dag.param": lambda dag: dag.param("n", 1),
    "xcom": xcom,
    "xcom.map": lambda dag: xcom(dag).map(lambda each: each),
    "xcom.zip": lambda dag: xcom(dag).zip(xcom_again(dag)),
    "xcom.concat": lambda dag: xcom(dag).concat(xcom_again(dag)),
    "literal": literal,
    "template": lambda dag: "{{ params.n }}",
    "function": lambda dag: function,
    "partial": lambda dag: functools.partial(of_one, 1),
    "method": lambda dag: Giver().method,
    "class method": lambda dag: Giver.of_class,
    "object with __call__": lambda dag: Giver(),
}
CALLED = ("function", "partial", "method", "class method", "object with __call__")


def xcom_again(dag: DAG) -> XComArg:
    return SegmindSubmitOperator(task_id="above_too", inputs={}).output


def function(context: Any, jinja_env: Any) -> Any:
    return 1


def of_one(value: Any, context: Any, jinja_env: Any) -> Any:
    return value


class Giver:
    """Gives a value when Airflow calls it, or one of its methods."""

    def __call__(self, context: Any, jinja_env: Any) -> Any:
        return 1

    method = __call__

    @classmethod
    def of_class(cls, context: Any, jinja_env: Any) -> Any:
        return 1


FIELDS = [(kind, NAMES.get(name, name)) for kind in LEAST for name in (*kind.template_fields, *kind.late_fields)]


def least_of(kind: type[Any], name: str) -> dict[str, Any]:
    """Return the least that an operator has to be given beside one argument."""
    instead = {"inputs": "prompt"}.get(name)
    return {known: value for known, value in LEAST[kind].items() if known not in (name, instead)}


@pytest.mark.parametrize("giver", GIVERS)
def test_every_argument_of_every_operator_may_be_given_later(giver: str) -> None:
    for kind, name in FIELDS:
        with DAG("a_dag", schedule=None, params={"n": 1}) as dag:
            value = GIVERS[giver](dag)
            task = kind(task_id="a_task", **least_of(kind, name), **{name: value})
        attribute = {"dry_run": "estimate_only"}.get(name, name)

        assert is_given_later(getattr(task, attribute)), (kind, name)
        assert attribute in task.template_fields, (kind, name)


@pytest.mark.parametrize("giver", CALLED)
def test_whatever_can_be_called_is_called_in_fields_of_every_kind(giver: str) -> None:
    with DAG("a_dag", schedule=None) as dag:
        value = GIVERS[giver](dag)
        chat = SegmindChatOperator(task_id="a", prompt=value, files=value, timeout=value, output_path=value)
        table = SegmindEnrichFileOperator(task_id="b", **{**FILE, "prompt": value, "max_rows": value})
        serialized = serialized_dag(dag)

    for task in (chat, table):
        rendered(task)
    assert (chat.prompt, chat.files, chat.timeout, chat.output_path) == (1, 1, 1, 1)
    assert (table.prompt, table.max_rows) == (1, 1)
    assert serialized


class Model(BaseModel):
    a: int


Name = NewType("Name", str)


@pytest.mark.parametrize("output_type", [Model, int, list[int], list[Model], dict[str, int], Literal["a", "b"], Name])
def test_a_type_is_a_value_and_not_called(output_type: Any) -> None:
    task = in_dag(SegmindChatOperator, output_type=output_type)

    assert not is_given_later(output_type)
    assert "output_type" not in task.template_fields
    assert rendered(task).output_type is output_type


@pytest.mark.parametrize(("kind", "name"), [(SegmindRunOperator, "timeout"), (SegmindEnrichFileOperator, "max_rows")])
def test_an_xcom_in_an_argument_that_is_no_template_field_is_waited_for(kind: type[Any], name: str) -> None:
    with DAG("a_dag", schedule=None) as dag:
        task = kind(task_id="a_task", **LEAST[kind], **{name: xcom(dag)})

    assert task.upstream_task_ids == {"above"}


@pytest.mark.parametrize("value", ["x.jsonl", Path("x.jsonl"), ObjectStoragePath("file:///x.jsonl")])
def test_a_path_is_not_taken_for_what_airflow_resolves(value: Any) -> None:
    assert not is_given_later(value)


def rendered(task: Any, **params: Any) -> Any:
    """Render as Airflow does."""
    task.render_template_fields({"params": params, "ti": None}, task.get_dag().get_template_env())
    return task


def in_dag(kind: type[Any], *, native: bool = False, **fields: Any) -> Any:
    with DAG("a_dag", schedule=None, render_template_as_native_obj=native):
        return kind(task_id="a_task", **{**least_of(kind, ""), **fields})


@pytest.mark.parametrize(
    ("template", "value", "expected"),
    [
        ("{{ params.n }}", 30, 30),
        ("{{ params.n }}", "30", 30),
        ("{{ params.n }}", 0.5, 0.5),
        ("1e{{ params.n }}", 2, 100.0),
    ],
)
@pytest.mark.parametrize("native", [True, False])
def test_a_template_makes_a_number(template: str, value: Any, expected: float, native: bool) -> None:
    assert rendered(in_dag(SegmindRunOperator, native=native, timeout=template), n=value).timeout == expected


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("template", ["{{ params.n }}", "{{ params.n | tojson }}", ["{{ params.n[0] }}", "failed"]])
def test_the_rows_to_ask_again_may_be_a_parameter_of_the_dag(template: Any, native: bool) -> None:
    task = in_dag(SegmindEnrichFileOperator, native=native, rerun=template)

    assert read_rerun(rendered(task, n=["truncated", "failed"]).rerun) == {"truncated", "failed"}


@pytest.mark.parametrize(
    ("fields", "value", "words"),
    [
        ({"timeout": "{{ params.n }}"}, "soon", "'timeout' is 'soon'; it must be a number of seconds"),
        ({"timeout": "{{ params.n }}"}, -1, "'timeout' is -1; it must be a number of seconds"),
        ({"max_repairs": "{{ params.n }}"}, 0.5, "'max_repairs' is 0.5; it must be a whole number"),
        ({"on_failed": "{{ params.n }}"}, "no", "'on_failed' is 'no'; it must be one of"),
        ({"dry_run": "{{ params.n }}"}, "maybe", "'dry_run' is 'maybe'; it must be True or False"),
        ({"timeout": "{{ params.n }}"}, "{{ 1 }}", "'timeout' is still a str"),
    ],
)
def test_what_a_template_made_is_checked_as_at_the_parse(
    fields: dict[str, Any], value: Any, words: str, run: Run
) -> None:
    task = rendered(in_dag(SegmindChatOperator, retries=0, **fields), n=value)

    with pytest.raises(AirflowFailException, match=words):
        task.execute(run.context())


def test_an_unresolved_field_is_named(run: Run) -> None:
    with DAG("a_dag", schedule=None, params={"n": 1}) as dag:
        task = SegmindChatOperator(task_id="a_task", prompt=dag.param("n"))

    with pytest.raises(AirflowFailException, match="'prompt' is still a DagParam when the task runs"):
        task.execute(run.context())


TEXTS = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False).map(str),
    st.from_regex(r"0[0-9]{1,6}", fullmatch=True),
    st.lists(st.integers(), max_size=3).map(str),
    st.dictionaries(st.sampled_from("ab"), st.integers(), max_size=2).map(str),
    st.sampled_from(["None", "True", "1_000", "'a'", "b'a'", "(1, 2)", "1j", "{1, 2}", "..."]),
    st.text(min_size=1),
)


@settings(max_examples=examples(150))
@given(TEXTS)
def test_native_rendering_takes_no_text_for_anything_else(text: str) -> None:
    template = "{{ params.t }}"
    task = in_dag(
        SegmindChatOperator,
        native=True,
        prompt=template,
        messages=[
            {"role": "user", "content": template},
            {"role": "user", "content": [{"type": "text", "text": template}]},
        ],
        model=template,
    )
    rendered(task, t=text)

    assert (task.prompt, task.model) == (text, text)
    assert task.messages[0]["content"] == task.messages[1]["content"][0]["text"] == text


@settings(max_examples=examples(100))
@given(TEXTS)
def test_native_rendering_keeps_the_strings_of_inputs_that_are_prompts(text: str) -> None:
    template = "{{ params.t }}"
    message = {"role": "user", "content": template}
    inputs = {"prompt": template, "negative_prompt": template, "messages": [message, {"parts": [{"text": template}]}]}
    for kind in (SegmindRunOperator, SegmindSubmitOperator):
        task = rendered(in_dag(kind, native=True, inputs=inputs), t=text)
        assert task.inputs == {
            "prompt": text,
            "negative_prompt": text,
            "messages": [{"role": "user", "content": text}, {"parts": [{"text": text}]}],
        }


@pytest.mark.parametrize("key", ["prompt", "negative_prompt", "content", "text"])
@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("text", ["007", "[1]", "None", "1_000"])
def test_native_rendering_keeps_the_strings_of_a_list_of_prompts(text: str, kind: type, key: str) -> None:
    given = {key: kind(["{{ params.t }}", {"text": "{{ params.t }}", "n": "{{ params.n }}"}, "Say {{ params.t }}"])}
    task = rendered(
        in_dag(SegmindRunOperator, native=True, inputs={**given, "seeds": ["{{ params.n }}"]}), t=text, n="7"
    )
    assert task.inputs == {key: [text, {"text": text, "n": 7}, f"Say {text}"], "seeds": [7]}


@pytest.mark.parametrize(
    ("value", "prompt"),
    [(12345, "12345"), (0.5, "0.5"), (True, "True"), ([1, 2], [1, 2]), ({"a": 1}, {"a": 1}), (None, None)],
)
def test_native_rendering_makes_numbers_of_other_inputs_and_leaves_data(value: Any, prompt: Any) -> None:
    task = in_dag(SegmindRunOperator, native=True, inputs={"prompt": "{{ params.t }}", "seed": "{{ params.n }}"})

    assert rendered(task, t=value, n="7").inputs == {"prompt": prompt, "seed": 7}


def test_without_native_rendering_inputs_are_strings() -> None:
    task = in_dag(SegmindRunOperator, inputs={"prompt": "{{ params.t }}", "seed": "{{ params.n }}"})

    assert rendered(task, t=[1, 2], n="7").inputs == {"prompt": "[1, 2]", "seed": "7"}


@pytest.mark.parametrize("value", [{"a": 1}, [1], (1, 2)])
def test_data_where_a_text_is_meant_is_refused_with_the_reason(value: Any, run: Run) -> None:
    task = rendered(in_dag(SegmindChatOperator, native=True, prompt="{{ params.t }}"), t=value)

    with pytest.raises(AirflowFailException, match=r"'prompt' is a .*render_template_as_native_obj"):
        task.execute(run.context())


def test_native_data_stays_data_where_data_is_meant() -> None:
    task = in_dag(
        SegmindChatOperator,
        native=True,
        prompt=None,
        messages="{{ params.turns }}",
        options={"temperature": "{{ params.t }}"},
        files="{{ params.files }}",
        output_path="{{ params.nothing }}",
    )
    turns = [{"role": "user", "content": "hello"}]
    rendered(task, turns=turns, t=0.5, files=["a.png", "007"], nothing=None)

    assert (task.messages, task.options, task.files, task.output_path) == (
        turns,
        {"temperature": 0.5},
        ["a.png", "007"],
        None,
    )


def test_an_empty_text_is_not_sent_as_its_template(emulator: SegmindEmulator, run: Run) -> None:
    task = rendered(in_dag(SegmindChatOperator, model="gpt-5", prompt="{{ params.t }}"), t="")

    with pytest.raises(AirflowFailException, match="prompt is empty"):
        task.execute(run.context())


def serialized_dag(dag: DAG) -> str:
    """Return what Airflow stores of a DAG."""
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialized
    except ImportError:
        from airflow.serialization.serialized_objects import SerializedDAG as Serialized  # type: ignore[no-redef]
    return json.dumps(Serialized.to_dict(dag))


def stored(task: Any) -> str:
    """Return what Airflow would write into its database before the task runs."""
    try:
        from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

        return json.dumps(_serialize_rendered_fields(task))
    except ImportError:
        from airflow.serialization.helpers import serialize_template_field

        return json.dumps([serialize_template_field(getattr(task, name), name) for name in task.template_fields])


SECRET = "Ann's diagnosis"
MASKED: list[tuple[type[Any], dict[str, Any]]] = [
    (SegmindChatOperator, {"prompt": SECRET, "system": SECRET}),
    (SegmindChatOperator, {"messages": [{"role": "user", "content": SECRET}]}),
    (SegmindRunOperator, {"inputs": {"prompt": SECRET}}),
    (SegmindSubmitOperator, {"inputs": {"prompt": SECRET}}),
    (SegmindEnrichFileOperator, {"prompt": SECRET + " {x}", "system": SECRET}),
    (SegmindEnrichSqlOperator, {"inputs": {"a": SECRET + " {x}"}, "prompt": None}),
]


@pytest.mark.parametrize(("kind", "fields"), MASKED)
@pytest.mark.parametrize("how", ["argument", "setting", "neither", "not this one"])
def test_prompts_are_stored_by_airflow_unless_masked(
    kind: type[Any], fields: dict[str, Any], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__MASK_PROMPTS", str(how in ("setting", "not this one")))
    task = rendered(in_dag(kind, **fields, mask_prompts={"argument": True, "not this one": False}.get(how)))

    assert (SECRET in stored(task)) == (how in ("neither", "not this one"))
    assert (MASKED_TEXT in stored(task)) == (how in ("argument", "setting"))
    assert SECRET not in repr([getattr(task, name) for name in fields]) or how in ("neither", "not this one")


def test_a_masked_prompt_is_asked(chat: Chat) -> None:
    task = chat.task(prompt=SECRET, system="{{ params.s }}", mask_prompts=True)
    task.render_template_fields({"params": {"s": SECRET}}, jinja2.Environment())

    assert isinstance(task.prompt, MaskedValue)
    assert task.execute(chat.run.context()) == f"echo: {SECRET}"
    assert str(chat.body()).count(SECRET) == 2


def test_rows_given_as_such_are_not_in_the_serialised_dag() -> None:
    rows = [{"id": 1, "x": SECRET}]
    with DAG("a_dag", schedule=None) as dag:
        SegmindEnrichFileOperator(task_id="plain", **{**FILE, "source": rows})
        mapped = SegmindEnrichFileOperator.partial(task_id="mapped", shard_count=2, **{**FILE, "source": rows})
        mapped.expand(shard_index=[0, 1])

    assert SECRET not in serialized_dag(dag)


def inline_sources(kind: str, rows: list[list[dict[str, Any]]]) -> Any:
    """Return a mapped task over rows that are in the DAG file."""
    fixed = {name: value for name, value in FILE.items() if name not in ("source", "output_path")}
    partial = SegmindEnrichFileOperator.partial(task_id="mapped", output_path="out.jsonl", **fixed)
    if kind == "expand_kwargs":
        return partial.expand_kwargs([{"source": one, "max_rows": number} for number, one in enumerate(rows, 1)])
    return partial.expand(source=tuple(rows) if kind == "expand of a tuple" else rows)


@pytest.mark.parametrize("kind", ["expand", "expand of a tuple", "expand_kwargs"])
def test_rows_that_a_task_is_mapped_over_are_not_in_the_serialised_dag_and_still_read(kind: str) -> None:
    rows = [[{"id": 1, "x": SECRET}], [{"id": 2, "x": SECRET}, {"id": 3, "x": SECRET}]]
    with DAG("a_dag", schedule=None) as dag:
        inline_sources(kind, rows)

    assert SECRET not in serialized_dag(dag)
    mapped = dag.get_task("mapped")
    for index, expected in enumerate(rows):
        given, _ = mapped._get_specified_expand_input().resolve({"ti": TaskInstance(map_index=index)})
        assert list(mapped.unmap(given).source) == expected


@pytest.mark.parametrize(
    "sources", [["a.jsonl", "b.jsonl"], [Path("a.jsonl")], ["{{ ds }}.jsonl"], [["a.jsonl", "b.jsonl"]]]
)
def test_paths_that_a_task_is_mapped_over_stay_as_they_are(sources: list[Any]) -> None:
    with DAG("a_dag", schedule=None) as dag:
        inline_sources("expand", sources)

    assert dag.get_task("mapped")._get_specified_expand_input().value == {"source": sources}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (SegmindChatOperator, {"prompt": None}),
        (SegmindChatOperator, {"prompt": "hi", "timeout": "soon"}),
        (SegmindRunOperator, {"inputs": ["hi"]}),
        (SegmindRequestSensor, {"request_id": None}),
    ],
)
def test_a_mapped_value_that_no_retry_can_help_uses_no_retries(kind: Any, wrong: dict[str, Any]) -> None:
    with DAG("a_dag", schedule=None) as dag:
        kind.partial(task_id="mapped", retries=3).expand_kwargs([wrong])
        with pytest.raises(SegmindConfigError) as parsed:
            kind(task_id="unmapped", **wrong)
    assert not isinstance(parsed.value, AirflowFailException)

    with pytest.raises(AirflowFailException) as failed:
        dag.get_task("mapped").unmap(wrong)
    assert isinstance(failed.value, SegmindConfigError)
    assert str(failed.value) == str(parsed.value)
