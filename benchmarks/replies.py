"""The bodies that the local server sends, made once."""

from __future__ import annotations

import json

ITEM = b"item-"
ITEM_DIGITS = 7
"""The answer to a prompt with "item-0000012" in it begins with the same word, so answers can be checked."""
COST = 0.0001
# A client learns from these when to poll, so they are those of a server without delay.
METRICS = json.dumps(
    {"cost": COST, "remaining_credits": 999.0, "inference_time": 0.001, "queue_time": 0.0, "total_time": 0.001}
).encode()


def gemini_text(size: int) -> str:
    """Return an answer, ``{"text": "item-@ITEM@ …"}``, with so many characters of text."""
    words = ("item-@ITEM@ " + "The quick brown fox jumps over the lazy dog. " * (size // 45 + 1))[:size]
    return json.dumps({"text": words})


def gemini(size: int) -> tuple[bytes, ...]:
    """Return a result with that answer, cut where the id and the item go."""
    text = gemini_text(size)
    output = {
        "candidates": [
            {
                "content": {"parts": [{"text": text}], "role": "model"},
                "finishReason": "STOP",
                "index": 0,
                "safetyRatings": [],
            }
        ],
        "usageMetadata": {"promptTokenCount": 30, "candidatesTokenCount": size // 4, "totalTokenCount": 30 + size // 4},
    }
    body = {"error": None, "metrics": json.loads(METRICS), "request_id": "@ID@", "status": "COMPLETED"}
    # Segmind sends a model's own JSON as a string.
    whole = json.dumps({**body, "output": json.dumps(output)}).encode()
    before, _, rest = whole.partition(b"@ID@")
    between, _, after = rest.partition(b"@ITEM@")
    return before, between, after


_COUNTS = {"processing": 1, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
_ANTHROPIC = {
    "id": "b-1",
    "type": "message_batch",
    "processing_status": "in_progress",
    "request_counts": _COUNTS,
    "created_at": "2026-01-01T00:00:00Z",
    "expires_at": "2026-01-02T00:00:00Z",
}
ANTHROPIC = json.dumps(_ANTHROPIC).encode()
ANTHROPIC_ENDED = json.dumps(_ANTHROPIC | {"processing_status": "ended"}).encode()
_OPENAI = {
    "id": "b-1",
    "object": "batch",
    "status": "in_progress",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
    "created_at": 1_760_000_000,
    "input_file_id": "f-1",
}
OPENAI = json.dumps(_OPENAI).encode()
OPENAI_ENDED = json.dumps(_OPENAI | {"status": "completed"}).encode()
