"""``@task.segmind``: the return value of a function is sent unchanged."""

from __future__ import annotations

from collections import UserDict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar

import pytest
from airflow.sdk import DAG

from airflow_provider_segmind.compat import AirflowFailException, TaskDeferred
from airflow_provider_segmind.decorators.chat import segmind_task
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.get_provider_info import get_provider_info
from airflow_provider_segmind.triggers.events import RequestEvent
from tests.support.airflow_fakes import KEY, Clock, Run, hook_by
from tests.support.chat_tasks import NUMBER, PIXEL

GEMINI = "gemini-3.1-flash-lite"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def emulator(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[SegmindEmulator]:
    with SegmindEmulator(clock=clock, api_keys=[KEY]) as running:
        monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", running.connection_json)
        yield running


@pytest.fixture
def made(emulator: SegmindEmulator, clock: Clock) -> Iterator[Callable[..., Any]]:
    """Make the operator of a decorated function."""
    hooks = []

    def make(function: Callable[..., Any], *args: Any, **fields: Any) -> Any:
        with DAG("d", schedule=None):
            task = segmind_task(model=GEMINI, deferrable=False, **fields)(function)(*args).operator
        task.hook = hook_by(clock)
        hooks.append(task.hook)
        return task

    yield make
    for hook in hooks:
        hook.close()


def parts(emulator: SegmindEmulator) -> Any:
    return emulator.posts()[-1].json["messages"]


def test_a_string_is_the_prompt(made: Any, emulator: SegmindEmulator) -> None:
    def ask(name: str) -> str:
        return f"Greet {name}."

    assert made(ask, "Ada").execute(Run().context()) == "echo: Greet Ada."


class Context(UserDict[str, Any]):
    """The context of Airflow 2.11 warns of some names when they are read."""

    read: ClassVar[set[str]] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)


def test_only_the_names_of_the_context_that_a_function_takes_are_read(made: Any, emulator: SegmindEmulator) -> None:
    context = Context(Run().context(), execution_date="deprecated", ds="2026-01-01")

    assert made(lambda ds: f"It is {ds}.", task_id="t").execute(context) == "echo: It is 2026-01-01."

    assert "ds" in Context.read
    assert "execution_date" not in Context.read


def test_a_dict_is_prompt_system_and_files(made: Any, emulator: SegmindEmulator) -> None:
    def ask() -> dict[str, Any]:
        return {"prompt": "What is this?", "system": "Be brief.", "files": [PIXEL]}

    made(ask, system="Be long.").execute(Run().context())

    assert parts(emulator)["system_instruction"] == {"parts": {"text": "Be brief."}}
    assert [set(part) for part in parts(emulator)["contents"][0]["parts"]] == [{"text"}, {"inlineData"}]


def test_a_dict_may_have_messages(made: Any, emulator: SegmindEmulator) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]

    made(lambda: {"messages": messages, "prompt": "c"}, task_id="t").execute(Run().context())

    assert [turn["role"] for turn in parts(emulator)["contents"]] == ["user", "model", "user"]


def test_the_arguments_of_the_decorator_are_defaults_of_the_function(made: Any, emulator: SegmindEmulator) -> None:
    made(lambda: "hello", task_id="t", system="Be kind.", output_type=NUMBER).execute(Run().context())

    assert parts(emulator)["system_instruction"] == {"parts": {"text": "Be kind."}}
    assert emulator.posts()[-1].json["response_format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (None, "returned None: it must return the prompt, or a dict of prompt, system, messages, files"),
        (7, "returned an int"),
        ({"promt": "x"}, "returned a dict with 'promt'"),
        ({"prompt": "x", "model": "gpt-5"}, "returned a dict with 'model'"),
        ({}, r"prompt is missing: .* Nothing was sent\."),
        ("", r"prompt is empty\. Nothing was sent\."),
        ({"prompt": "x", "files": "cat.jpg"}, "'files' is a string that is not JSON"),
    ],
)
def test_what_is_not_a_prompt_is_an_error_before_the_post(
    returned: Any, words: str, made: Any, emulator: SegmindEmulator
) -> None:
    with pytest.raises(AirflowFailException, match=words):
        made(lambda: returned, task_id="t").execute(Run().context())
    assert emulator.posts() == []


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (12345, "returned an int"),
        (0.5, "returned a float"),
        ([1], "returned a list"),
        (None, "returned None"),
        (True, "returned a bool"),
        ({"a": 1}, "returned a dict with 'a'"),
        ({"prompt": 12345}, "a dict whose 'prompt' is an int"),
        ({"prompt": "x", "system": [1]}, "a dict whose 'system' is a list"),
    ],
)
def test_what_native_rendering_made_of_an_argument_is_refused_with_the_reason(
    returned: Any, words: str, native: bool, clock: Clock, emulator: SegmindEmulator
) -> None:
    def ask(given: Any) -> Any:
        return given

    with DAG("d", schedule=None, render_template_as_native_obj=native) as dag:
        task = segmind_task(model=GEMINI, deferrable=False)(ask)("{{ params.t }}").operator
    task.hook = hook_by(clock)
    task.render_template_fields({"params": {"t": str(returned)}, "ti": None}, dag.get_template_env())
    if not native:
        assert task.op_args[0] == str(returned)
        task.op_args = [returned]
    with pytest.raises(AirflowFailException, match=words) as caught:
        task.execute(Run().context())
    assert ("render_template_as_native_obj" in str(caught.value)) is native
    assert emulator.posts() == []


@pytest.mark.parametrize("name", ["prompt", "messages"])
def test_the_prompt_is_not_an_argument_of_the_decorator(name: str) -> None:
    with (
        DAG("d", schedule=None),
        pytest.raises(SegmindConfigError, match=f"no argument '{name}': the function of @task.segmind returns it"),
    ):
        segmind_task(**{name: "x"})(lambda: "y")()


def test_wrong_arguments_are_errors_at_dag_parse() -> None:
    with DAG("d", schedule=None), pytest.raises(SegmindConfigError, match="max_repairs"):
        segmind_task(max_repairs=-1, task_id="t")(lambda: "y")()


def test_an_annotated_dict_does_not_turn_the_answer_into_multiple_outputs() -> None:
    def ask() -> dict[str, str]:
        return {"prompt": "x"}

    with DAG("d", schedule=None):
        assert segmind_task(ask)().operator.multiple_outputs is False  # type: ignore[attr-defined]
        assert segmind_task(multiple_outputs=True, output_type=dict)(ask)().operator.multiple_outputs is True


@pytest.mark.parametrize("output_type", [None, str, list[int], int | None])
def test_multiple_outputs_of_an_answer_that_is_not_an_object_are_refused_before_it_is_paid(output_type: Any) -> None:
    with DAG("d", schedule=None), pytest.raises(SegmindConfigError, match=r"'multiple_outputs' needs .* object"):
        segmind_task(multiple_outputs=True, output_type=output_type, task_id="t")(lambda: "x")()


def test_a_function_that_is_async_is_refused_at_dag_parse() -> None:
    async def ask() -> str:
        return "x"

    async def ask_twice() -> AsyncIterator[str]:
        yield "x"

    for function in (ask, ask_twice):
        with DAG("d", schedule=None), pytest.raises(SegmindConfigError, match=f"'{function.__name__}' is async"):
            segmind_task(function)()


def test_the_function_runs_once_for_a_deferred_task_that_gets_its_answer(made: Any, emulator: SegmindEmulator) -> None:
    calls = []
    run = Run()
    emulator.settings(latency=30.0)

    def ask() -> str:
        calls.append(1)
        return "hello"

    task = made(ask, sync_wait=0)
    task.deferrable = True

    with pytest.raises(TaskDeferred) as deferred:
        task.execute(run.context())
    emulator.advance(31)
    event = RequestEvent(deferred.value.trigger.request_id, "success").to_json()

    assert made(ask).execute_complete(run.context(), event) == "echo: hello"
    assert len(calls) == 1


def test_a_retry_pays_nothing_when_the_function_returns_the_same(made: Any, emulator: SegmindEmulator) -> None:
    run = Run()

    for _ in range(2):
        assert made(lambda: "hello", task_id="t").execute(run.context()) == "echo: hello"
    assert len(emulator.posts()) == 1


def test_it_is_registered_under_its_name() -> None:
    assert get_provider_info()["task-decorators"] == [
        {"name": "segmind", "class-name": "airflow_provider_segmind.decorators.chat.segmind_task"}
    ]
