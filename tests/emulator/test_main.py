from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import httpx
import pytest

from airflow_provider_segmind.emulator import EmulatorControl

Start = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-W", "error", "-m", "airflow_provider_segmind.emulator", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process, process.stdout.readline() + process.stdout.readline()

    yield run
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_it_prints_its_address_and_a_line_that_a_shell_runs(start):
    _, lines = start("--port", "0", "--latency", "2", "--rpm", "7", "--set", 'history_envelope="list"')
    line, export = lines.splitlines()
    url = re.search(r"http://127\.0\.0\.1:\d+", line).group()
    shell = ["sh", "-c", f'{export}; printf %s "$AIRFLOW_CONN_SEGMIND_DEFAULT"']
    connection = json.loads(subprocess.run(shell, check=True, capture_output=True).stdout)

    assert connection["conn_type"] == "segmind"
    assert connection["host"] == url
    assert connection["extra"] == {"storage_url": url, "history_url": url, "models_url": url}
    settings = EmulatorControl(url).settings()
    assert (settings["latency"], settings["rpm"], settings["history_envelope"]) == (2, 7, "list")
    assert connection["password"] == settings["api_keys"][0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_on_a_signal_even_with_a_call_in_progress(start, number):
    process, line = start()
    url = re.search(r"http://\S+\d", line).group()
    EmulatorControl(url).fault("credits", delay=60)
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as connection:
        connection.sendall(b"GET /v1/get-user-credits HTTP/1.1\r\nhost: x\r\n\r\n")
        while not EmulatorControl(url).requests:
            pass
        process.send_signal(number)
        out, err = process.communicate(timeout=10)

    assert (process.returncode, out, err) == (0, "", "")


def test_another_process_can_script_it(start):
    _, line = start()
    url = re.search(r"http://\S+\d", line).group()
    control = EmulatorControl(url)
    control.script(match="red", text="stop")
    control.fault("credits", status=503)
    headers = {"x-api-key": control.settings()["api_keys"][0]}

    with httpx.Client(base_url=url, headers=headers, trust_env=False) as http:
        request_id = http.post("/v2/gpt-5", json={"prompt": "red"}).json()["request_id"]
        assert '"stop"' in http.get(f"/v2/requests/{request_id}").json()["output"].replace("content", "")
        assert http.get("/v1/get-user-credits").status_code == 503

    assert [entry.request_id for entry in control.bill] == [request_id]
    assert control.jobs[0].status == "COMPLETED"
    assert control.balance() < 100
    before = control.now()
    assert control.advance(3600) >= before + 3600
    control.scale(60)
    control.set_balance(5, free=1)
    assert control.balance() == 6
    assert control.counts()["submit"] == {"200": 1}
    assert control.most_accepted() == 2
    assert (control.leaks, len(control.scripts), control.faults[0]["used"]) == ([], 1, 1)
    control.unscript()
    control.unfault()
    assert (control.scripts, control.faults) == ([], [])
    control.reset()
    assert control.jobs == []
    with pytest.raises(ValueError, match="sumbit"):
        control.fault("sumbit")
    with pytest.raises(ValueError, match="unknown emulator command"):
        control._send("fly", {})


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--set", "ttl=soon"], ["--set", "tll=3"], ["--set", 'ttl="3"'], ["--port", "taken"], ["--port", "99999"]),
        *(["--ttl", "-1"], ["--rpm", "-5"], ["--latency", "nan"], ["--latency", "-1"], ["--scale", "nan"]),
    ],
)
def test_invalid_arguments_exit_with_2_and_a_reason(start, arguments):
    process, line = start(*arguments)

    _, err = process.communicate(timeout=10)
    assert (process.returncode, line) == (2, "")
    assert re.search(r"ttl|tll|taken|JSON|rpm|latency|scale|cannot listen on", err)
    assert "Traceback" not in err


def test_an_occupied_port_is_reported(start):
    _, line = start()
    port = re.search(r":(\d+) ", line).group(1)

    process, _ = start("--port", port)

    _, err = process.communicate(timeout=10)
    assert (process.returncode, "cannot listen" in err) == (2, True)
