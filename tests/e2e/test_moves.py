"""The pages about moving from other packages: both DAGs of each run, and what a retry costs with each is counted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.dag_runs import MARK

pytestmark = pytest.mark.timeout(1200)

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).parent / "uv"
OTHERS = [
    "apache-airflow-providers-common-ai[openai]==1.0.0",
    "apache-airflow-providers-http==6.3.0",
    "openai==3.57.0",
    "pydantic-ai-slim==2.68.0",
    "segmind==1.3.0",
]
PAGES = {
    "with_http_operator": "move-from-http-operator",
    "with_sdk": "move-from-segmind-sdk",
    "with_common_ai": "move-from-common-ai",
}
TRIAGE = {"team": "billing", "summary": "Charged twice."}
SKY = "echo: Why is the sky blue?"


class OpenAi(ThreadingHTTPServer):
    """A chat completion at OpenAI, whose first response is lost after the request has been read."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Completion)
        self.paid = 0


class _Completion(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert isinstance(self.server, OpenAi)
        self.server.paid += 1
        if self.server.paid == 1:
            self.send_error(504)
            return
        call = {"name": asked["tools"][0]["function"]["name"], "arguments": json.dumps(TRIAGE)}
        message = {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": call}],
        }
        choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
        answer = {"id": "a", "object": "chat.completion", "created": 0, "model": "gpt-5.4-mini", "choices": [choice]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with this checkout beside the packages that the pages leave."""
    home = tmp_path_factory.mktemp("others")
    python = home / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, home], check=True, timeout=120)
    install = [
        UV,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "--constraint",
        ROOT / "constraints" / "airflow.txt",
    ]
    subprocess.run([*install, *OTHERS, "pytest", "--editable", f"{ROOT}[emulator]"], check=True, timeout=600)
    return python


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """The files with the DAG before and after, by the id of the one before."""
    folder = tmp_path_factory.mktemp("dags")
    found = {}
    for before, page in PAGES.items():
        text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text()
        blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
        paths = [folder / f"{page}_{number}.py" for number in range(len(blocks))]
        for path, block in zip(paths, blocks, strict=True):
            # The SDK takes its address from no environment variable.
            path.write_text(block.replace("SegmindClient()", "SegmindClient(base_url=os.environ['SDK_URL'])"))
            if "SDK_URL" in path.read_text():
                path.write_text("import os\n" + path.read_text())
        found[before] = (paths[0], paths[1])
    return found


@pytest.fixture(scope="module")
def home(
    interpreter: Path, dags: dict[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("home")
    written = {path.parent for pair in dags.values() for path in pair}.pop()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(written),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "0",
    }
    command = [interpreter, "-m", "airflow", "db", "migrate"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    return environment


@pytest.fixture
def openai() -> Iterator[OpenAi]:
    with OpenAi() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(interpreter: Path, environment: dict[str, str], path: Path, dag_id: str) -> dict[str, Any]:
    command = [interpreter, "-m", "tests.support.dag_runs", path, dag_id]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=400)
    ended = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert ended, f"{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    answer: dict[str, Any] = json.loads(ended[0].removeprefix(MARK))
    assert answer["state"] == "success", done.stdout[-5000:]
    return answer


@pytest.mark.parametrize(
    ("before", "after", "answer"),
    [("with_http_operator", "with_segmind", SKY), ("with_sdk", "without_sdk", SKY)],
)
def test_a_retry_pays_again_before_the_move_and_not_after_it(
    before: str,
    after: str,
    answer: str,
    interpreter: Path,
    home: dict[str, str],
    dags: dict[str, tuple[Path, Path]],
) -> None:
    paid, answers = [], []
    for path, dag_id in zip(dags[before], (before, after), strict=True):
        with SegmindEmulator() as emulator:
            emulator.fault("submit", status=504, when="after")
            connection = {"conn_type": "http", "host": emulator.url, "password": emulator.api_key}
            environment = {
                **home,
                "AIRFLOW_CONN_SEGMIND_DEFAULT": emulator.connection_json,
                "AIRFLOW_CONN_SEGMIND_HTTP": json.dumps(connection),
                "SEGMIND_API_KEY": emulator.api_key,
                "SDK_URL": f"{emulator.url}/v1",
            }
            answers.append(run(interpreter, environment, path, dag_id)["values"]["answer"])
            paid.append(len(emulator.bill))

    assert answers == [answer, answer]
    assert paid == [2, 1]


def test_a_retry_of_a_typed_prompt_pays_again_with_common_ai_only(
    interpreter: Path, home: dict[str, str], dags: dict[str, tuple[Path, Path]], openai: OpenAi
) -> None:
    before, after = dags["with_common_ai"]
    host = f"http://127.0.0.1:{openai.server_address[1]}/v1"
    connection = json.dumps({"conn_type": "pydanticai", "host": host, "password": "key"})
    first = run(interpreter, {**home, "AIRFLOW_CONN_PYDANTICAI_DEFAULT": connection}, before, "with_common_ai")
    with SegmindEmulator() as emulator:
        emulator.script(match="charged twice", json=TRIAGE)
        emulator.fault("submit", status=504, when="after")
        environment = {**home, "AIRFLOW_CONN_SEGMIND_DEFAULT": emulator.connection_json}
        second = run(interpreter, environment, after, "without_common_ai")
        paid = len(emulator.bill)

    assert first["values"]["triage"] == second["values"]["triage"] == TRIAGE
    assert (openai.paid, paid) == (2, 1)
