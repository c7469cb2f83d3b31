"""The emulator responds like recorded responses whose sources are given."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from airflow_provider_segmind.emulator import SegmindEmulator

FILES = sorted((Path(__file__).parents[1] / "wire").glob("*.json"))
MARKS = {
    "<id>": lambda value: isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._-]+", value),
    "<url>": lambda value: isinstance(value, str) and value.startswith(("http://", "https://")),
    "<string>": lambda value: isinstance(value, str) and value,
    "<integer>": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "<number>": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
}


def differences(found, expected, where="answer"):
    """Compare with a template: a mark matches any value of its kind, everything else only itself."""
    if isinstance(expected, str) and expected in MARKS:
        return [] if MARKS[expected](found) else [f"{where}: {found!r} is no {expected}"]
    if isinstance(expected, dict) and set(expected) == {"<json>"}:
        return differences(json.loads(found), expected["<json>"], where)
    if isinstance(expected, dict) and isinstance(found, dict):
        uneven = (
            [f"{where}: keys differ by {sorted(set(found) ^ set(expected))}"] if set(found) != set(expected) else []
        )
        return uneven + [
            line
            for key in set(found) & set(expected)
            for line in differences(found[key], expected[key], f"{where}.{key}")
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        return [
            line
            for i, pair in enumerate(zip(found, expected, strict=True))
            for line in differences(*pair, f"{where}[{i}]")
        ]
    return [] if found == expected and type(found) is type(expected) else [f"{where}: {found!r} is not {expected!r}"]


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_the_emulator_responds_as_the_source_says(path):
    case = json.loads(path.read_text())
    given, call, expected = case.get("given", {}), case["call"], case["answer"]
    with SegmindEmulator(**given.get("settings", {})) as emulator:
        if "script" in given:
            emulator.script(**given["script"])
        if "fault" in given:
            emulator.fault(**given["fault"])
        headers = {"x-api-key": emulator.api_key, **call.get("headers", {})}
        with httpx.Client(base_url=emulator.url, trust_env=False) as http:
            made = ""
            if "submit" in case:
                url = f"/v2/{case['submit']['model']}"
                made = http.post(url, json=case["submit"]["inputs"], headers=headers).json()["request_id"]
            answer = http.request(
                call["method"],
                call["path"].replace("{id}", made),
                headers={name: value for name, value in headers.items() if value is not None},
                **({"json": call["json"]} if "json" in call else {"content": call["text"]} if "text" in call else {}),
            )

    assert answer.status_code == expected["status"]
    assert answer.headers["content-type"] == expected["content_type"]
    for name, value in expected.get("headers", {}).items():
        assert differences(answer.headers.get(name), value, name) == []
    if "json" in expected:
        assert differences(answer.json(), expected["json"]) == []
    else:
        assert differences(answer.text, expected["text"]) == []


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_every_recorded_response_names_its_source_and_its_reliability(path):
    case = json.loads(path.read_text())

    assert len(case["source"]) > 10
    assert case["trust"] in ("documented", "observed", "assumed")


def test_the_comparison_itself_can_fail():
    assert differences({"a": 1}, {"a": "<string>"})
    assert differences({"a": 1, "b": 2}, {"a": 1})
    assert differences([1], [1, 2])
    assert differences(True, 1)
