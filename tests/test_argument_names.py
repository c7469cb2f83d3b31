"""A wrong name of an argument is an error of the DAG that says which one was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_segmind.argument_names import MODEL_OPTIONS, OTHER_NAMES, argument_names
from airflow_provider_segmind.compat import BaseOperator
from airflow_provider_segmind.decorators.chat import segmind_task
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.enrich import (
    SegmindEnrichFileOperator,
    SegmindEnrichSqlOperator,
    SegmindMergeOperator,
)
from airflow_provider_segmind.operators.request import (
    SegmindResultOperator,
    SegmindRunOperator,
    SegmindSubmitOperator,
)
from airflow_provider_segmind.sensors.request import SegmindRequestSensor
from tests.support.dag_runs import import_errors

OPERATORS: tuple[type[Any], ...] = (
    *(SegmindSubmitOperator, SegmindResultOperator, SegmindRunOperator, SegmindChatOperator, SegmindRequestSensor),
    *(SegmindEnrichFileOperator, SegmindEnrichSqlOperator, SegmindMergeOperator),
)
SECRET = "a prompt that must not be shown"


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        (SegmindChatOperator, "modle", "'modle'; did you mean 'model'?"),
        (SegmindChatOperator, "prompts", "'prompts'; did you mean 'prompt'?"),
        (SegmindChatOperator, "conn_id", "'conn_id'; did you mean 'segmind_conn_id'?"),
        (SegmindChatOperator, "temperature", "belongs to options={'temperature': …}"),
        (SegmindChatOperator, "max_tokens", "belongs to options={'max_tokens': …}"),
        (SegmindChatOperator, "inputs", "'inputs': the request is built from prompt, messages, files and options"),
        (SegmindChatOperator, "zzz", "no argument 'zzz'."),
        (SegmindChatOperator, "retires", "did you mean 'retries'?"),
        (SegmindRunOperator, "temperature", "belongs to inputs={'temperature': …}"),
        (SegmindRunOperator, "input", "did you mean 'inputs'?"),
        (SegmindSubmitOperator, "payload", "did you mean 'inputs'?"),
        (SegmindEnrichSqlOperator, "conn_id", "'conn_id'; did you mean 'segmind_conn_id'?"),
        (SegmindEnrichSqlOperator, "source_table", "did you mean 'sql'?"),
        (SegmindEnrichFileOperator, "max_costs", "did you mean 'max_cost'?"),
        (SegmindEnrichFileOperator, "seed", "belongs to options={'seed': …}"),
        (SegmindRequestSensor, "request", "did you mean 'request_id'?"),
        (SegmindResultOperator, "outputpath", "did you mean 'output_path'?"),
        (SegmindMergeOperator, "manifest", "did you mean 'manifests'?"),
    ],
)
@pytest.mark.parametrize("mapped", [False, True])
def test_the_error_names_the_task_and_what_was_meant_and_shows_no_value(
    kind: type[Any], wrong: str, words: str, mapped: bool
) -> None:
    with DAG("a_dag", schedule=None), pytest.raises(SegmindConfigError) as caught:
        # Also where another argument that is required is missing because of it.
        (kind.partial if mapped else kind)(task_id="a_task", **{wrong: SECRET})

    assert f"Task 'a_task' ({kind.__name__}) has no argument '{wrong}'" in str(caught.value)
    assert words in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("way", ["expand", "expand_kwargs"])
def test_a_wrong_name_to_expand_over_is_answered_as_any_other(way: str) -> None:
    with DAG("a_dag", schedule=None) as dag:
        partial = SegmindChatOperator.partial(task_id="a_task", model="m")
        with pytest.raises(
            SegmindConfigError, match=r"'a_task' .* no argument 'promt'; did you mean 'prompt'"
        ) as caught:
            partial.expand(promt=[SECRET]) if way == "expand" else partial.expand_kwargs([{"promt": SECRET}])
        mapped = partial.expand(prompt=["a", "b"]) if way == "expand" else partial.expand_kwargs([{"prompt": "a"}])

    assert SECRET not in str(caught.value)
    assert dag.get_task("a_task") is mapped
    assert mapped.is_mapped


def letter_task(letter: str) -> str:
    return letter


@pytest.mark.parametrize(
    "use",
    [
        lambda: segmind_task(modle="m")(letter_task)("a"),
        lambda: segmind_task(modle="m")(letter_task).expand(letter=["a", "b"]),
        lambda: segmind_task(letter_task).override(modle="m")("a"),
    ],
)
def test_a_wrong_argument_of_the_decorator_names_its_function(use: Any) -> None:
    with DAG("a_dag", schedule=None), pytest.raises(SegmindConfigError) as caught:
        use()

    assert "Task 'letter_task' (@task.segmind) has no argument 'modle'; did you mean 'model'?" in str(caught.value)
    assert "?." not in str(caught.value)


def test_every_argument_of_airflow_is_known() -> None:
    for kind in OPERATORS:
        assert argument_names(BaseOperator) <= argument_names(kind), kind


def test_no_name_for_something_else_is_an_argument() -> None:
    known = set().union(*map(argument_names, OPERATORS))

    assert MODEL_OPTIONS.isdisjoint(known)
    assert known.issuperset(name for names in OTHER_NAMES.values() for name in names)


def test_a_subclass_may_take_arguments_of_its_own() -> None:
    class Greeting(SegmindChatOperator):
        def __init__(self, **kwargs: Any) -> None:
            name = kwargs.pop("name_of_somebody")
            super().__init__(prompt=f"Greet {name}.", **kwargs)

    assert Greeting(task_id="a_task", name_of_somebody="Ada").prompt == "Greet Ada."


def test_a_wrong_name_is_an_import_error_of_the_dag_file(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        "from airflow.sdk import DAG\n"
        "from airflow_provider_segmind.operators.chat import SegmindChatOperator\n"
        "with DAG('wrong', schedule=None):\n"
        "    SegmindChatOperator(task_id='ask', modle='m', prompt='x')\n"
    )

    [(file, said)] = import_errors(tmp_path).items()

    assert file.endswith("wrong.py")
    assert "Task 'ask' (SegmindChatOperator) has no argument 'modle'; did you mean 'model'?" in said
