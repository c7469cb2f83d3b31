"""What a chat task sends, returns, lands, logs and links to."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from pathlib import Path
from typing import Any, NoReturn

import pytest
from airflow.sdk import DAG
from pydantic import BaseModel

from airflow_provider_segmind.chat.attachments import MAX_INLINE_BYTES
from airflow_provider_segmind.client.submission import ResultManifest
from airflow_provider_segmind.compat import TaskDeferred
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindSubmissionUnknownError
from airflow_provider_segmind.execution.request import RequestExecution
from airflow_provider_segmind.links import SegmindModelLink, SegmindOutputLink
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.result_storage import StoredResult
from airflow_provider_segmind.triggers.events import RequestEvent
from tests.support.airflow_fakes import Run
from tests.support.chat_tasks import CLAUDE, GEMINI, GPT, NUMBER, PIXEL, Chat

ENCODED = base64.b64encode(PIXEL).decode()
SEED = {
    "prompt": "What's in this image?",
    "system": "You are a helpful assistant.",
    "files": ["cat.jpg"],
}


class Ticket(BaseModel):
    team: str
    urgent: bool


@pytest.fixture
def _cat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat.jpg").write_bytes(PIXEL)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_cat")
class TestTheSeedsQuestion:
    def test_to_gemini_has_exactly_the_seeds_json_shape(self, chat: Chat) -> None:
        chat.ask(model=GEMINI, **SEED)

        assert chat.body() == {
            "messages": {
                "system_instruction": {"parts": {"text": "You are a helpful assistant."}},
                "contents": [
                    {
                        "role": "user",
                        "parts": [
                            {"text": "What's in this image?"},
                            {"inlineData": {"mimeType": "image/jpeg", "data": ENCODED}},
                        ],
                    }
                ],
            }
        }

    def test_to_openai_has_its_shape(self, chat: Chat) -> None:
        chat.ask(model=GPT, **SEED)

        assert chat.body()["messages"] == [
            {"role": "system", "content": "You are a helpful assistant."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What's in this image?"},
                    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{ENCODED}"}},
                ],
            },
        ]

    def test_to_anthropic_has_its_shape(self, chat: Chat) -> None:
        chat.ask(model=CLAUDE, **SEED)

        source = {"type": "base64", "media_type": "image/jpeg", "data": ENCODED}
        question = [{"type": "text", "text": "What's in this image?"}, {"type": "image", "source": source}]
        assert chat.body() == {
            "instruction": "You are a helpful assistant.",
            "messages": [{"role": "user", "content": question}],
        }


def test_a_relative_file_is_looked_for_beside_the_dag_first(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "near.png").write_bytes(PIXEL)
    task = chat.task(files=["near.png"])
    task.dag = DAG("d", schedule=None)
    task.dag.fileloc = str(tmp_path / "dag.py")

    assert task.execute(chat.run.context()) == "echo: question"
    assert ENCODED in str(chat.body())


def test_the_model_may_come_from_the_connection(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = chat.emulator.connection
    connection["extra"]["model"] = CLAUDE
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(connection))

    assert chat.ask(model=None, system="be kind") == "echo: question"
    assert chat.body()["instruction"] == "be kind"


def test_data_of_a_pydantic_model_comes_back_as_plain_json(chat: Chat) -> None:
    chat.emulator.script(json={"team": "billing", "urgent": True})

    assert chat.ask(output_type=Ticket) == {"team": "billing", "urgent": True}
    assert chat.body()["response_format"]["json_schema"]["name"] == "Ticket"


def test_a_list_comes_back_unwrapped(chat: Chat) -> None:
    chat.emulator.script(json={"value": [1, 2]})

    assert chat.ask(output_type=list[int]) == [1, 2]


class TestLanding:
    def test_a_large_answer_is_a_file_and_xcom_has_its_manifest(self, chat: Chat, tmp_path: Path) -> None:
        chat.emulator.script(text="long " * 40_000)

        manifest = chat.ask(output_path=f"{tmp_path}/out")

        assert set(manifest) == {"request_id", "model", "status", "metrics", "uri", "uris", "bytes"}
        assert Path(manifest["uri"].removeprefix("file://")).read_text() == "long " * 40_000
        assert manifest["bytes"] == 200_000
        assert len([each for each in (tmp_path / "out").iterdir() if each.is_file()]) == 2

    def test_a_small_answer_is_the_value_and_a_file_too(self, chat: Chat, tmp_path: Path) -> None:
        chat.emulator.script(json={"x": 1})

        assert chat.ask(output_type=NUMBER, output_path=f"{tmp_path}/out/number.json") == {"x": 1}
        assert json.loads((tmp_path / "out" / "number.json").read_text()) == {"x": 1}
        body = tmp_path / "out" / f"{chat.xcoms['request_id']}.json"
        assert json.loads(body.read_text())["status"] == "COMPLETED"

    def test_a_stored_answer_is_found_after_segmind_has_dropped_it(self, chat: Chat, tmp_path: Path) -> None:
        fields: dict[str, Any] = {"output_path": f"{tmp_path}/out", "output_type": NUMBER}
        chat.emulator.script(text="no data", times=1)
        chat.emulator.script(match="The validator says", json={"x": 1})
        chat.ask(**fields)
        chat.emulator.advance(4000)
        chat.emulator.fault("status|result|history", status=404, times=None)

        assert chat.ask(**fields) == {"x": 1}
        assert chat.posts == 2

    def test_a_large_answer_without_an_output_path_goes_to_xcom_whole(
        self, chat: Chat, caplog: pytest.LogCaptureFixture
    ) -> None:
        chat.emulator.script(text="long " * 40_000)

        assert chat.ask() == "long " * 40_000
        assert chat.ask(max_xcom_bytes=300_000) == "long " * 40_000
        assert chat.posts == 1

    def test_a_large_answer_goes_to_the_folder_for_all_tasks(
        self, chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW__SEGMIND__OUTPUT_PATH", f"{tmp_path}/all")
        chat.emulator.script(text="long " * 40_000)

        manifest = chat.ask()
        assert Path(manifest["uri"].removeprefix("file://")).read_text() == "long " * 40_000
        assert manifest["uri"].startswith(f"{tmp_path}/all/") or manifest["uri"].startswith(f"file://{tmp_path}/all/")
        assert chat.ask(max_xcom_bytes=300_000) == "long " * 40_000
        assert chat.posts == 1

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            ({"connection"}, "connection"),
            ({"connection", "segmind"}, "connection"),
            ({"connection", "task"}, "task"),
            ({"connection", "segmind", "task"}, "task"),
            ({"segmind", "task"}, "task"),
            ({"segmind"}, "segmind"),
        ],
    )
    def test_the_nearest_output_path_is_used(
        self,
        where: set[str],
        expected: str,
        chat: Chat,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        if "connection" in where:
            given = json.loads(os.environ["AIRFLOW_CONN_SEGMIND_DEFAULT"])
            given["extra"] = {**given.get("extra", {}), "output_path": f"{tmp_path}/connection"}
            monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(given))
        if "segmind" in where:
            monkeypatch.setenv("AIRFLOW__SEGMIND__OUTPUT_PATH", f"{tmp_path}/segmind")
        chat.emulator.script(text="long " * 40_000)
        fields: dict[str, Any] = {"output_path": f"{tmp_path}/task/"} if "task" in where else {}

        manifest = chat.ask(**fields)

        assert f"{tmp_path}/{expected}/" in manifest["uri"]
        assert sorted(path.name for path in tmp_path.iterdir()) == [expected]
        assert "unknown extra field" not in caplog.text
        assert chat.posts == 1

    @pytest.mark.parametrize("configured", [False, True])
    def test_a_body_too_large_for_an_event_is_fetched_by_the_worker(
        self, configured: bool, chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if configured:
            monkeypatch.setenv("AIRFLOW__SEGMIND__OUTPUT_PATH", str(tmp_path))
        chat.emulator.settings(latency=30.0)
        chat.emulator.script(text="fine", thoughts="hm " * 40_000)
        fields: dict[str, Any] = {"deferrable": True, "sync_wait": 0}
        with pytest.raises(TaskDeferred) as deferred:
            chat.ask(**fields)
        chat.emulator.advance(31)
        trigger: Any = deferred.value.trigger
        trigger.not_before = 0.0

        async def event() -> Any:
            return [each.payload async for each in trigger.run()]

        [payload] = asyncio.run(event())
        assert len(json.dumps(payload)) < 1000
        assert chat.task(**fields).execute_complete(chat.run.context(), payload) == "fine"

    @pytest.mark.parametrize("text", ["a\x00b", "\x00"])
    def test_an_answer_that_databases_refuse_is_cleaned(self, text: str, chat: Chat, tmp_path: Path) -> None:
        chat.emulator.script(text=text)
        answer = chat.ask(output_path=str(tmp_path))
        assert answer.encode()
        assert "\x00" not in answer
        assert chat.ask(output_path=str(tmp_path)) == answer
        assert chat.posts == 1

    def test_an_event_with_the_body_or_its_manifest_is_all_that_is_needed(self, chat: Chat, tmp_path: Path) -> None:
        fields: dict[str, Any] = {"output_path": f"{tmp_path}/out"}
        chat.ask(**fields)
        request_id = chat.xcoms["request_id"]
        path = tmp_path / "out" / f"{request_id}.json"
        manifest = ResultManifest(request_id=request_id, uris=(str(path),))
        chat.emulator.fault("status|result", status=404, times=None)

        for result in (StoredResult(json.loads(path.read_text())), StoredResult(manifest=manifest)):
            event = RequestEvent(request_id, "success", result).to_json()
            assert chat.task(**fields).execute_complete(chat.run.context(), event) == "echo: question"

    def test_an_answer_that_is_an_address_is_text(self, chat: Chat, tmp_path: Path) -> None:
        url = f"{chat.emulator.url}/files/none.png"
        chat.emulator.script(text=url)

        assert chat.ask(output_path=f"{tmp_path}/out") == url


def interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


class TestLargeFiles:
    def test_a_large_file_is_uploaded_once_and_the_retry_knows_the_request(self, chat: Chat, tmp_path: Path) -> None:
        path = tmp_path / "big.png"
        path.write_bytes(PIXEL.ljust(MAX_INLINE_BYTES + 1, b"\0"))
        fields: dict[str, Any] = {"files": [str(path)], "large_files": "upload"}

        assert chat.ask(**fields) == "echo: question"
        assert chat.ask(**fields) == "echo: question"

        assert chat.posts == 1
        assert len(chat.emulator.calls("upload")) == 1
        address = chat.body()["messages"]["contents"][0]["parts"][1]["fileData"]["fileUri"]
        assert address.startswith("http")

    @pytest.mark.parametrize("killed", [False, True], ids=["lost", "killed"])
    def test_a_lost_request_with_an_uploaded_file_is_found_in_the_history(
        self, killed: bool, chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "big.png"
        path.write_bytes(PIXEL.ljust(MAX_INLINE_BYTES + 1, b"\0"))
        fields: dict[str, Any] = {"files": [str(path)], "large_files": "upload", "on_unknown": "resubmit"}
        if killed:
            with monkeypatch.context() as patch:
                patch.setattr(RequestExecution, "_write", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    chat.ask(**fields)
        else:
            chat.emulator.fault("submit", when="after", status=504)

        assert chat.ask(**fields) == "echo: question"
        assert chat.posts == 1
        [filled] = chat.run.store.record["filled_in"].values()
        assert len(filled) == 64

    def test_a_request_with_another_uploaded_file_is_not_the_lost_one(self, chat: Chat, tmp_path: Path) -> None:
        fields: dict[str, Any] = {"large_files": "upload"}
        for number, name in enumerate(("one.png", "two.png")):
            (tmp_path / name).write_bytes(PIXEL.ljust(MAX_INLINE_BYTES + 1 + number, b"\0"))
        chat.ask(**fields, files=[str(tmp_path / "one.png")])
        other = Chat(chat.emulator, chat.clock, Run(map_index=1))
        chat.emulator.fault("submit", when="before", status=504)

        with pytest.raises(SegmindSubmissionUnknownError, match="The request history does not show it"):
            other.ask(**fields, files=[str(tmp_path / "two.png")])
        other.close()

    def test_a_repair_sends_the_address_too(self, chat: Chat, tmp_path: Path) -> None:
        path = tmp_path / "big.png"
        path.write_bytes(PIXEL.ljust(MAX_INLINE_BYTES + 1, b"\0"))
        chat.emulator.script(match="The validator says", json={"x": 1})
        chat.emulator.script(text="no data", times=1)

        chat.ask(files=[str(path)], large_files="upload", output_type=NUMBER)

        assert "segmind-upload" not in str([post.json for post in chat.emulator.posts()])


class TestSight:
    def test_one_line_reports_tokens_cost_latency_and_queue_time(self, chat: Chat, capsys: Any) -> None:
        chat.emulator.script(text="fine", queue_time=2.0, latency=5.0, cost=0.25)

        chat.ask(prompt="a canary of a prompt")

        lines = [line for line in capsys.readouterr().out.splitlines() if "tokens in" in line]
        assert len(lines) == 1
        assert re.search(r"\d+ tokens in, 1 tokens out, cost \$0\.25, total [57]\S* s, queued 2\S* s", lines[0])
        assert "canary" not in lines[0]

    def test_a_dry_run_submits_nothing_and_returns_the_price(self, chat: Chat, capsys: Any) -> None:
        chat.emulator.set_balance(0.01)

        estimate = chat.ask(dry_run=True, prompt="x" * 4000)

        assert chat.posts == 0
        assert chat.run.store.values == {}
        assert estimate["input_tokens"] == 1000
        assert estimate["low"] == pytest.approx(1000 * 0.25e-6)
        assert estimate["covered"] is False
        assert "does not cover" in capsys.readouterr().out

    def test_prices_come_from_the_connection(self, chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
        connection = chat.emulator.connection
        connection["extra"]["prices"] = {GPT: {"input": 2, "output": 8}}
        monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(connection))

        estimate = chat.ask(model=GPT, dry_run=True, prompt="x" * 4000, options={"max_tokens": 1000})

        assert (estimate["low"], estimate["high"]) == (pytest.approx(0.002), pytest.approx(0.01))
        assert estimate["price"]["source"] == "your own price"

    def test_an_account_without_a_record_has_no_balance_to_compare(self, chat: Chat) -> None:
        chat.emulator.set_balance(None)

        estimate = chat.ask(dry_run=True)

        assert (estimate["balance"], estimate["covered"], estimate["warning"]) == (None, None, None)

    def test_the_method_dry_run_of_every_operator_still_works(self, chat: Chat) -> None:
        chat.task(dry_run=True).dry_run()

    def test_the_models_link_is_there_while_the_task_is_deferred_and_a_file_on_a_disk_has_none(
        self, chat: Chat, tmp_path: Path
    ) -> None:
        fields: dict[str, Any] = {"deferrable": True, "sync_wait": 0, "output_path": f"{tmp_path}/answer.txt"}
        chat.emulator.settings(latency=30.0)
        task = chat.task(**fields)
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(chat.run.context())
        key: Any = None

        assert SegmindModelLink().get_link(task, ti_key=key) == f"https://www.segmind.com/models/{GEMINI}/api"
        assert SegmindOutputLink().get_link(task, ti_key=key) == ""
        chat.emulator.advance(31)
        task = chat.task(**fields)
        event = RequestEvent(deferred.value.trigger.request_id, "success").to_json()
        task.execute_complete(chat.run.context(), event)
        assert str(task.result_uri).endswith("/answer.txt")
        # No browser opens it.
        assert SegmindOutputLink().get_link(task, ti_key=key) == ""


class TestTemplates:
    def render(self, folder: Path, **fields: Any) -> SegmindChatOperator:
        with DAG("d", schedule=None, template_searchpath=[str(folder)], params={"who": "Ada"}) as dag:
            task = SegmindChatOperator(task_id="t", model=GEMINI, **fields)
        dag.resolve_template_files()
        task.render_template_fields({"params": {"who": "Ada"}})
        return task

    def test_a_prompt_that_is_a_path_is_read_and_rendered(self, tmp_path: Path) -> None:
        (tmp_path / "ask.md").write_text("Greet {{ params.who }}.")
        (tmp_path / "be.txt").write_text("Be kind to {{ params.who }}.")

        task = self.render(tmp_path, prompt="ask.md", system="be.txt")

        assert (task.prompt, task.system) == ("Greet Ada.", "Be kind to Ada.")

    @pytest.mark.parametrize("prompt", ["summarise README.md", "what is a.txt, b.json", "see notes.md "])
    def test_a_sentence_that_ends_like_a_path_is_a_sentence(self, prompt: str, tmp_path: Path) -> None:
        assert self.render(tmp_path, prompt=prompt).prompt == prompt

    def test_nothing_else_is_ever_taken_for_a_path(self, tmp_path: Path) -> None:
        message = {"role": "user", "content": "README.md"}
        task = self.render(tmp_path, messages=[message], files=["a.json"], options={"stop": "x.txt"})

        assert (task.messages, task.files, task.options) == ([message], ["a.json"], {"stop": "x.txt"})

    def test_a_missing_file_is_an_error_at_dag_parse(self, tmp_path: Path) -> None:
        with pytest.raises(SegmindConfigError, match=r"'prompt' is 'absent\.md', which names a file"):
            self.render(tmp_path, prompt="absent.md")

    def test_bytes_never_show_in_the_rendered_fields(self, tmp_path: Path) -> None:
        task = self.render(tmp_path, prompt="x", files=[PIXEL])

        assert "IHDR" not in str(task.files)
        assert "image/png" in str(task.files)

    def test_a_mapped_task_takes_no_string_for_a_path_and_warns(self, chat: Chat, capsys: Any) -> None:
        task = chat.task(prompt="question", system="be.txt", _airflow_from_mapped=True)

        assert task.execute(chat.run.context()) == "echo: question"
        assert chat.body()["messages"]["system_instruction"] == {"parts": {"text": "be.txt"}}
        assert "'system' looks like the path of a file but is sent as it is" in capsys.readouterr().out


def test_the_log_of_a_repair_quotes_nothing_of_the_reply(chat: Chat, capsys: Any) -> None:
    chat.emulator.script(match="The validator says", json={"x": 1})
    chat.emulator.script(json={"x": "canary-reply"}, times=1)

    assert chat.ask(output_type=NUMBER) == {"x": 1}
    said = capsys.readouterr().out
    assert "Sending a follow-up, a further paid request" in said
    assert "canary-reply" not in said
