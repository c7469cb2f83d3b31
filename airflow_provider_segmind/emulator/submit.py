"""Accept a paid POST: check it, plan the outcome of the request, and make its files."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import hashlib
import json
import struct
import zlib
from dataclasses import replace
from typing import Any

from airflow_provider_segmind.emulator import catalogue, replies
from airflow_provider_segmind.emulator.replies import Prompt, read_prompt
from airflow_provider_segmind.emulator.scripts import Script, draw_latency
from airflow_provider_segmind.emulator.state import EmulatorState, Job
from airflow_provider_segmind.emulator.wire import Call, Response, error

CONTENT_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "jpg": "image/jpeg", "mp4": "video/mp4", "mp3": "audio/mpeg"}
# a grey baseline JPEG of 8 x 8 pixels, tables included
_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGBYUGBIUFRT/"
    "wAALCAAIAAgBAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEI"
    "I0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKz"
    "tLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/APn+v//Z"
)


def png(seed: str) -> bytes:
    """Return a valid RGB image of one colour, derived from ``seed``."""
    colour = hashlib.sha256(seed.encode()).digest()[:3]
    rows = (b"\x00" + colour * 8) * 8
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def mp4(seed: str) -> bytes:
    """Return the boxes of an MP4 file without tracks, enough for checks of magic bytes."""
    free = b"segmind-emulator " + seed.encode()
    return _box(b"ftyp", b"isom\x00\x00\x02\x00isomiso2mp41") + _box(b"free", free) + _box(b"mdat", b"")


def _box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + name + data


def mp3(seed: str) -> bytes:
    """Return an ID3 tag and one silent MPEG audio frame (128 kbit/s, 44.1 kHz)."""
    comment = seed.encode()[:80]
    return b"ID3\x03\x00\x00" + bytes([0, 0, 0, len(comment)]) + comment + b"\xff\xfb\x90\x00" + bytes(413)


def make(extension: str, seed: str) -> tuple[bytes, str]:
    """Return a file's bytes and content type."""
    makers = {"png": png, "mp4": mp4, "mp3": mp3}
    return (makers[extension](seed) if extension in makers else _JPEG), CONTENT_TYPES[extension]


_EXTENSIONS = {"image": "png", "video": "mp4", "audio": "mp3"}


def accept(state: EmulatorState, call: Call, key: str, model: str, *, via: str) -> Job | Response:
    """Check a submit and accept it, or return the error response."""
    settings = state.settings
    if model in settings.retired:
        return error(410, f"Model {model} has been retired")
    if model in settings.restricted:
        return error(403, f"Your team does not have access to model {model}")
    kind = catalogue.kind_of(model, settings.models)
    if kind is None:
        return error(404, f"Model {model} not found")
    inputs = _inputs(call)
    if isinstance(inputs, Response):
        return inputs
    prompt = read_prompt(inputs, kind, strict_gemini=settings.strict_gemini_messages)
    if prompt.problem and settings.eager_validation is not None:
        return error(settings.eager_validation, prompt.problem)
    job = _build(state, call, key, model, kind, inputs, prompt, via)
    account = state.account(key)
    if account.total - account.reserved < job.cost or (account.credits is None and job.cost > 0):
        status = settings.credits_status_v1 if via == "v1" else settings.credits_status_v2
        return error(status, f"Insufficient credits. You have {round(account.total, 8)} credits.")
    state.add(job)
    return job


def _inputs(call: Call) -> dict[str, Any] | Response:
    declared = call.headers.get("content-type", "")
    content_type = declared.split(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return _form(declared, call.body)
    if content_type != "application/json":
        return error(406, "Invalid content type")
    try:
        inputs = json.loads(call.body)
    except ValueError:
        return error(400, "Invalid JSON in request body")
    return inputs if isinstance(inputs, dict) else error(400, "Request body must be a JSON object")


def _form(declared: str, body: bytes) -> dict[str, Any]:
    head = f"Content-Type: {declared}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    parts = list(message.iter_parts()) if message.is_multipart() else []
    return {str(part.get_param("name", header="content-disposition")): part.get_content() for part in parts}


def _build(
    state: EmulatorState, call: Call, key: str, model: str, kind: str, inputs: dict[str, Any], prompt: Prompt, via: str
) -> Job:
    settings, now = state.settings, state.clock.now()
    script = state.scripts.choose(model, inputs, prompt.everything)
    plan = settings.latency if script.latency is None else script.latency
    latency = draw_latency(plan, script.used - 1 if script.latency is not None else state.submitted)
    if kind == "mock":
        latency = float(inputs.get("sleep", latency))
    queued = settings.queue_time if script.queue_time is None else script.queue_time
    polls = settings.polls if script.polls is None else script.polls
    job = Job(
        id=state.new_id(),
        key=key,
        model=model,
        kind=kind,
        via=via,
        submitted=now,
        starts=now + queued,
        finishes=now + queued + latency,
        cost=0.0,
        polls=(polls[0], polls[1]) if polls else None,
        error=script.fail or prompt.problem,
        body=call.body if settings.record_bodies else None,
    )
    if kind in _EXTENSIONS:
        _fill_media(state, job, script, prompt, inputs)
    else:
        _fill_text(state, job, script, prompt, inputs)
    if kind == "mock" and "credits" in inputs:
        job.cost = float(inputs["credits"])
    if script.cost is not None:
        job.cost = script.cost
    if script.result:
        job.fields |= script.result
    return job


def _fill_text(state: EmulatorState, job: Job, script: Script, prompt: Prompt, inputs: dict[str, Any]) -> None:
    settings = state.settings
    if job.kind == "embedding":
        job.native = _embedding(prompt.text, job.model)
        job.fields = {"output": json.dumps(job.native)}
        job.cost = round(replies.count_tokens(prompt.text) * settings.price_input / 1e6, 10)
        return
    if settings.bill_whole_body:
        prompt = replace(prompt, everything=replies.whole_text(inputs))
    reply = replies.build_reply(job.kind, job.model, inputs, prompt, script, request_id=job.id, now=job.submitted)
    # only a v1 response needs the object again; a v2 result has it as a string
    job.native = reply.native if job.via == "v1" else None
    produced = reply.usage.output + reply.usage.thoughts
    job.cost = round((reply.usage.input * settings.price_input + produced * settings.price_output) / 1e6, 10)
    plain = "plain" if job.kind in ("mock", "transcript") else settings.output_mode
    job.fields = _output(script.output_mode or plain, reply)
    if job.kind == "mock":
        job.fields |= {"reasoning": "", "partial": False}
    if inputs.get("web_search"):
        job.fields["grounding"] = {"queries": [prompt.text]}


def _output(mode: str, reply: replies.Reply) -> dict[str, Any]:
    if mode == "missing":
        return dict(reply.native)
    written = json.dumps(reply.native, ensure_ascii=False)
    shapes = {
        "double": written,
        "plain": reply.text or "",
        "dict": reply.native,
        "invalid": written[: len(written) // 2],
        "list": [reply.text],
    }
    return {"output": shapes[mode]}


def _embedding(text: str, model: str) -> dict[str, Any]:
    numbers = [round(byte / 255, 4) for byte in png(text)[-24:-16]]
    usage = {"prompt_tokens": replies.count_tokens(text), "total_tokens": replies.count_tokens(text)}
    return {
        "object": "list",
        "model": model,
        "data": [{"object": "embedding", "index": 0, "embedding": numbers}],
        "usage": usage,
    }


def _fill_media(state: EmulatorState, job: Job, script: Script, prompt: Prompt, inputs: dict[str, Any]) -> None:
    extension = _EXTENSIONS[job.kind]
    wanted = str(inputs.get("output_format") or inputs.get("image_format") or "").lower()
    if job.kind == "image" and wanted in ("jpeg", "jpg", "png"):
        extension = wanted
    described = [
        store_file(state, f"generations/{job.id}-{n}.{extension}", f"{prompt.text}/{n}") for n in range(script.outputs)
    ]
    job.urls = tuple(str(item["url"]) for item in described)
    job.fields = {"output": job.urls[0] if job.urls else None}
    if job.kind == "image":
        seed = inputs.get("seed", -1)
        drawn = int(job.id.replace("-", "")[:6], 16) if seed == -1 else seed
        job.fields |= {"images": described, "seed": str(drawn), "prompt": prompt.text, "timings": {}}
    elif described:
        job.fields[job.kind] = described[0]
    job.cost = state.settings.media_price


def store_file(state: EmulatorState, name: str, seed: str, content: tuple[bytes, str] | None = None) -> dict[str, Any]:
    """Store a file on the file host and return its description in a result.

    :param seed: what generated content is derived from.
    :param content: bytes and content type, instead of generated ones.
    """
    body, content_type = content or make(name.rsplit(".", 1)[-1], seed)
    state.files[name] = (body, content_type, state.clock.now())
    origin = (state.settings.files_url or state.base_url).rstrip("/")
    return {
        "url": f"{origin}/files/{name}",
        "content_type": content_type,
        "file_name": name.rsplit("/", 1)[-1],
        "file_size": str(len(body)),
    }
