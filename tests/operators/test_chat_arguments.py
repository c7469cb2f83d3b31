"""What cannot work is said when the DAG is parsed, or before the POST, and names the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_segmind.chat.attachments import MAX_INLINE_BYTES
from airflow_provider_segmind.compat import AirflowFailException
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.operators.request import SegmindSubmitOperator
from tests.support.chat_tasks import GEMINI, PIXEL, Chat


class Strange:
    """No type pydantic can adapt."""


USER = {"role": "user", "content": "hello"}
AT_PARSE: list[tuple[dict[str, Any], str]] = [
    ({}, "'prompt' is missing"),
    ({"prompt": ""}, "'prompt' is empty"),
    ({"prompt": 7}, "'prompt' is an int"),
    ({"prompt": "x", "system": " "}, "'system' is empty"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, r"messages\[0\].role is 'wizard'"),
    ({"messages": [USER, {"role": "user", "content": ""}]}, r"messages\[1\].content is empty"),
    ({"messages": [{"role": "user"}]}, r"messages\[0\].content is missing"),
    ({"messages": []}, "messages is empty"),
    ({"messages": 7}, "messages is an int"),
    ({"messages": [{"role": "system", "content": "be kind"}]}, "only the role 'system'"),
    ({"messages": {"contents": []}}, r"messages.contents must be a list"),
    ({"messages": {"contents": [{}]}, "prompt": "x"}, "prompt cannot be combined with messages"),
    ({"prompt": "x", "options": {"stop": {"a", "b"}}}, "options.stop is a set"),
    ({"prompt": "x", "options": {"temperature": float("nan")}}, "options.temperature is nan"),
    ({"prompt": "x", "options": ["temperature"]}, "options is a list"),
    ({"prompt": "x", "options": {"messages": []}}, "options.messages does not belong"),
    ({"prompt": "x", "output_type": {"type": "objekt"}}, "output_type is not a JSON Schema"),
    ({"prompt": "x", "output_type": {"x": 1}}, "output_type is a mapping without any JSON Schema keyword"),
    ({"prompt": "x", "output_type": Strange}, "output_type .*Strange.* is not a type that pydantic supports"),
    ({"prompt": "x", "output_type": "Ticket"}, "output_type is a str"),
    ({"prompt": "x", "output_type": int, "options": {"response_format": {}}}, "options.response_format"),
    ({"prompt": "x", "api_format": "mistral"}, "api_format='mistral' is not a chat format"),
    ({"prompt": "x", "model": "qwen-image"}, "model='qwen-image' is not a chat model, judging by its name"),
    ({"prompt": "x", "model": 7}, "'model' is 7"),
    ({"prompt": "x", "max_repairs": -1}, "'max_repairs' is -1"),
    ({"prompt": "x", "max_repairs": 1.5}, "'max_repairs' is 1.5"),
    ({"prompt": "x", "files": "cat.jpg"}, "'files' is a str"),
    ({"prompt": "x", "files": [7]}, r"'files\[0\]' is an int"),
    ({"prompt": "x", "files": [b""]}, r"'files\[0\]' is empty"),
    ({"prompt": "x", "files": [b"????"]}, r"files\[0\]: neither its name nor its first bytes"),
    ({"prompt": "x", "large_files": "skip"}, "'large_files' is 'skip'"),
    ({"prompt": "x", "inputs": {}}, "no argument 'inputs': the request is built from"),
    ({"prompt": "x", "inputs_schema": 5}, "'inputs_schema' is an int"),
    ({"prompt": "x", "dry_run": None}, "'dry_run' is None"),
    ({"prompt": "x", "timeout": 0}, "'timeout' is 0"),
]


@pytest.mark.parametrize(("fields", "words"), AT_PARSE, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_work_is_an_error_at_dag_parse_that_names_the_field(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SegmindConfigError, match=words):
        SegmindChatOperator(task_id="t", **{"model": GEMINI, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "{{ params.question }}", "model": "{{ params.model }}"},
        {"prompt": "{% include 'a.md' %}", "options": {"seed": "{{ params.seed }}"}},
        {"messages": "{{ params.messages | tojson }}"},
        {"messages": [{"role": "{{ params.role }}", "content": "x"}]},
        {"messages": [USER], "prompt": "and now?"},
        {"prompt": "x", "model": None},
        {"prompt": "x", "model": "my-own-model", "api_format": "openai"},
        {"prompt": "x", "files": ["{{ params.file }}", Path("cat.jpg"), PIXEL, "https://x.example/a.png"]},
        {"prompt": "x", "output_type": list[int]},
    ],
)
def test_what_is_known_only_later_or_right_passes_the_parse(fields: dict[str, Any]) -> None:
    SegmindChatOperator(task_id="t", **{"model": GEMINI, **fields})


def test_the_output_of_an_upstream_task_passes_the_parse() -> None:
    with DAG("d", schedule=None):
        up = SegmindSubmitOperator(task_id="up", model=GEMINI, inputs={})

        SegmindChatOperator(task_id="t", model=GEMINI, prompt=up.output, files=up.output)
        SegmindChatOperator(task_id="u", model=GEMINI, messages=[{"role": "user", "content": up.output["text"]}])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"files": ["absent.jpg"]}, r"files\[0\] is 'absent.jpg', but there is no such file"),
        ({"files": ["{folder}"]}, r"files\[0\] \(a\) cannot be read: Is a directory. Nothing was sent"),
        ({"files": ["nfs://there/a.png"]}, r"files\[0\] \(a.png\) cannot be read: .*nfs.* Nothing was sent"),
        ({"files": ["{big}"]}, r"files\[0\] \(big.png\) is larger than the 7000000 bytes"),
        ({"files": ["{odd}"]}, r"files\[0\] \(odd.bin\): neither its name nor its first bytes"),
        (
            {"files": ["{movie}"], "model": "gpt-5"},
            r"files\[0\] \(a.mp4\): models with the openai format do not accept video",
        ),
        ({"files": "no JSON"}, "'files' is a string that is not JSON"),
        ({"messages": "no JSON"}, "'messages' is a string that is not JSON"),
        ({"prompt": {"a": 1}}, "'prompt' is a dict when the task runs"),
        ({"prompt": "  "}, "prompt is empty"),
        ({"options": {"prompt": "x"}}, "options.prompt does not belong in options"),
        ({"model": "seedream-4.5"}, "model='seedream-4.5' is not a chat model, judging by its name"),
    ],
)
def test_what_shows_only_on_the_worker_is_an_error_before_the_post(
    fields: dict[str, Any], words: str, chat: Chat, tmp_path: Path
) -> None:
    for name, content in (("big.png", PIXEL.ljust(MAX_INLINE_BYTES + 1)), ("odd.bin", b"????"), ("a.mp4", b"0000ftyp")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "a").mkdir()
    task = chat.task()
    places = {"{big}": "big.png", "{odd}": "odd.bin", "{movie}": "a.mp4", "{folder}": "a"}
    for name, value in fields.items():
        # As a template or an XCom would: after the checks of the parse.
        listed = [str(tmp_path / places[item]) if item in places else item for item in value]
        setattr(task, name, listed if isinstance(value, list) else value)

    with pytest.raises(AirflowFailException, match=words):
        task.execute(chat.run.context())
    assert chat.posts == 0


def test_a_file_that_is_too_large_is_not_even_read(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = tmp_path / "big.png"
    big.write_bytes(b"x" * (MAX_INLINE_BYTES + 1))
    read_bytes = Path.read_bytes
    # Modules that the task imports are read as well.
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read") if self == big else read_bytes(self))

    with pytest.raises(AirflowFailException, match="larger than the 7000000 bytes"):
        chat.ask(files=[str(big)])


class TestValidation:
    def test_a_schema_file_is_checked_before_anything_is_paid(self, chat: Chat, tmp_path: Path) -> None:
        path = tmp_path / "chat.schema.json"
        path.write_text('{"properties": {"temperature": {"maximum": 1}}}')

        with pytest.raises(AirflowFailException, match=r"\$.temperature violates 'maximum': 1"):
            chat.ask(options={"temperature": 3}, inputs_schema=str(path))
        assert chat.posts == 0
        assert chat.ask(options={"temperature": 1}, inputs_schema=str(path)) == "echo: question"

    @pytest.mark.parametrize("rendered", ["False", "false", "True"])
    def test_a_template_may_choose_whether_to_check(self, chat: Chat, rendered: str) -> None:
        task = chat.task(options={"temperature": 1}, inputs_schema="{{ params.check }}")

        task.render_template_fields({"params": {"check": rendered}})

        assert task.inputs_schema is (rendered == "True")

    def test_without_a_schema_the_model_list_is_fetched(self, chat: Chat) -> None:
        task = SegmindSubmitOperator(
            task_id="a_task", model="seedream-4.5", inputs={"prompt": 7, "seed": "x"}, inputs_schema=True
        )
        task.hook = chat.task().hook

        with pytest.raises(AirflowFailException, match=r"Segmind lists for the model: \$.prompt violates"):
            task.execute(chat.run.context())
        assert chat.posts == 0

    def test_a_listed_model_accepts_what_fits(self, chat: Chat) -> None:
        assert chat.ask(inputs_schema=True) == "echo: question"

    def test_a_model_that_is_not_listed_goes_unchecked_with_a_warning(self, chat: Chat, capsys: Any) -> None:
        chat.emulator.settings(models={"my-chat": "openai"})
        chat.emulator.fault("models", patch={"Inference Segmind Model Information List With Details": []})

        assert chat.ask(model="my-chat", api_format="openai", inputs_schema=True) == "echo: question"
        assert "the inputs are not checked" in capsys.readouterr().out
