"""Calls of the emulator's tests, and what they read of a response."""

from __future__ import annotations

import json
from typing import Any

import httpx

MODEL = "gemini-3.1-flash-lite"


def post(http: httpx.Client) -> httpx.Response:
    return http.post(f"/v2/{MODEL}", json={"prompt": "x"})


def status_of(http: httpx.Client, request_id: str) -> str:
    return http.get(f"/v2/requests/{request_id}/status").json()["status"]


def json_output(http: httpx.Client, request_id: str) -> Any:
    """Return the body of a language model, which is the output of the request as a string."""
    return json.loads(http.get(f"/v2/requests/{request_id}").json()["output"])


def text_of(reply: Any) -> str:
    """Return the text in the body of a language model of any family."""
    if "candidates" in reply:
        return "".join(part["text"] for part in reply["candidates"][0]["content"]["parts"] if not part.get("thought"))
    if "choices" in reply:
        return reply["choices"][0]["message"]["content"]
    return "".join(part["text"] for part in reply["content"] if part["type"] == "text")
