"""A chat task without Airflow's runner: its tries share a state store, and its hook never really sleeps."""

from __future__ import annotations

from typing import Any

from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.triggers.events import RequestEvent
from tests.support.airflow_fakes import Clock, Run, hook_by

GEMINI, GPT, CLAUDE = "gemini-3.1-flash-lite", "gpt-5.4-mini", "claude-4.5-sonnet"
FAMILIES = {"gemini": GEMINI, "openai": GPT, "anthropic": CLAUDE}
NUMBER = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108040000"
    "00b51c0c020000000b4944415478da6364f80f00010501012718e366"
    "0000000049454e44ae426082"
)


class Chat:
    """One task instance that can be tried several times."""

    def __init__(self, emulator: SegmindEmulator, clock: Clock, run: Run) -> None:
        self.emulator, self.clock, self.run = emulator, clock, run
        self._hooks: list[SegmindHook] = []

    def task(self, **fields: Any) -> SegmindChatOperator:
        given = {"model": GEMINI, "deferrable": False, **fields}
        if "prompt" not in given and "messages" not in given:
            given["prompt"] = "question"
        task = SegmindChatOperator(task_id="a_task", **given)
        task.hook = hook_by(self.clock)
        self._hooks.append(task.hook)
        return task

    def ask(self, **fields: Any) -> Any:
        """Run one try of the task."""
        return self.task(**fields).execute(self.run.context())

    def wake(self, request_id: str, **fields: Any) -> Any:
        """Resume after a successful deferral."""
        event = RequestEvent(request_id, "success").to_json()
        return self.task(**fields).execute_complete(self.run.context(), event)

    @property
    def posts(self) -> int:
        return len(self.emulator.posts())

    def body(self, number: int = -1) -> Any:
        """Return the body of a POST."""
        return self.emulator.posts()[number].json

    @property
    def xcoms(self) -> dict[str, Any]:
        return self.run.ti.pushed

    def close(self) -> None:
        for hook in self._hooks:
            hook.close()
