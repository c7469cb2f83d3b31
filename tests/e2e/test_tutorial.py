"""The tutorial, word for word: in an empty folder and an empty environment, with the Airflow that it installs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from demo.processes import free_port
from tests.matrix.environments import find_python
from tests.matrix.versions import VERSIONS, Version

pytestmark = pytest.mark.timeout(1800)

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorial" / "first-answers.md").read_text()
STEPS, UI = PAGE.split("## Look at it in the UI")
BLOCK = re.compile(
    r"(?:Save this as `(?P<file>[^`]+)`[^\n]*\n\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
RELEASES = [next(one for one in VERSIONS if one.airflow == name) for name in ("3.3.2", "2.11.2")]
CONSTRAINTS = re.compile(
    r"https://raw\.githubusercontent\.com/apache/airflow/constraints-[\w.]+/constraints-[\d.]+\.txt"
)
MARK = "=== block "


@dataclass(frozen=True)
class Followed:
    """
    The tutorial after its last step.

    :param printed: what the commands of each ``console`` block printed, by the number of the block.
    """

    release: Version
    folder: Path
    environment: dict[str, str]
    port: int
    printed: dict[int, str]


def commands(text: str, release: Version, ports: dict[str, int]) -> str:
    """Return the commands of a block, for this release, without the network, and with ports that nobody uses."""
    found = "\n".join(re.findall(r"^\$ (.+)$", text, flags=re.MULTILINE))
    found = CONSTRAINTS.sub(str(release.constraints), found)
    # The page says so itself: the same arguments, in a fraction of the time.
    found = found.replace("pip install", "uv pip install").replace(
        "apache-airflow==3.3.2", f"apache-airflow=={release.airflow}"
    )
    for port, free in ports.items():
        found = found.replace(port, str(free))
    return found


def script(release: Version, ports: dict[str, int]) -> str:
    """Write the page as a script: it saves the files, and runs the commands."""
    lines = ["set -e", "trap 'kill $(jobs -p)' EXIT"]
    for number, block in enumerate(BLOCK.finditer(STEPS)):
        if block["file"]:
            lines += [f"mkdir -p $(dirname {block['file']})", f"cat > {block['file']} <<'END_OF_FILE'"]
            lines += [block["text"] + "END_OF_FILE"]
        elif block["kind"] == "console":
            # A file that was shown before may end without a line end.
            lines += [f"printf '\\n{MARK}{number}\\n'", commands(block["text"], release, ports)]
    return "\n".join(lines)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return folder


@pytest.fixture(scope="module", params=RELEASES, ids=lambda release: str(release.airflow))
def followed(request: pytest.FixtureRequest, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Followed:
    release: Version = request.param
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").symlink_to(find_python(release))
    ports = {"8765": free_port()}
    environment = {
        name: value for name, value in os.environ.items() if not re.match("AIRFLOW|PYTHON|VIRTUAL|COV", name)
    }
    environment |= {
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "UV_FIND_LINKS": str(wheels),
        # Without a space between a word and the next column, whatever the terminal's width.
        "COLUMNS": "200",
    }
    started = time.monotonic()
    done = subprocess.Popen(
        ["bash", "-c", script(release, ports)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = done.communicate(timeout=1500)
    finally:
        stop(done)
    print(f"Airflow {release.airflow}: the tutorial took {time.monotonic() - started:.0f} s")
    assert done.returncode == 0, output[-20_000:]
    parts = re.split(rf"^{MARK}(\d+)$", output, flags=re.MULTILINE)
    printed = dict(zip(map(int, parts[1::2]), parts[2::2], strict=True))
    return Followed(release, folder / "segmind-tutorial", environment, ports["8765"], printed)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process and all others of its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def test_every_command_prints_what_the_page_shows(followed: Followed) -> None:
    before = -1
    compared = 0
    for number, block in enumerate(BLOCK.finditer(STEPS)):
        if block["kind"] == "console":
            before = number
        elif block["kind"] == "text":
            printed = [" ".join(line.split()) for line in followed.printed[before].splitlines()]
            shown = block["text"].replace("8765", str(followed.port)).replace("─", "")
            for line in shown.splitlines():
                # The widths of columns depend on the port and on what a request cost.
                start = " ".join(line.partition("…")[0].split())
                assert any(one.startswith(start) for one in printed), (line, printed)
                compared += bool(start)

    assert compared >= 12


def test_equal_rows_are_paid_for_once(followed: Followed) -> None:
    rows = (followed.folder / "answers" / "tickets.csv").read_text().splitlines()
    requests = [row.split(",success,,")[1].split(",")[0] for row in rows[1:]]

    assert len(requests) == 4
    assert requests[1] == requests[3]
    assert len(set(requests)) == 3


def test_the_files_of_the_page_lie_in_one_folder(followed: Followed) -> None:
    assert (followed.folder / "answers" / "sky.md").read_text() == "echo: Why is the sky blue? One sentence."
    assert (followed.folder / "answers" / "tickets.report.html").exists()


@pytest.fixture
def server(followed: Followed) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The server of the page's last part."""
    newer, older = (block["text"] for block in BLOCK.finditer(UI))
    port = free_port()
    text = newer if followed.release.airflow.startswith("3") else older
    process = subprocess.Popen(
        ["bash", "-c", "source .venv/bin/activate\n" + commands(text, followed.release, {"8080": port})],
        cwd=followed.folder,
        env={**followed.environment, "AIRFLOW_HOME": str(followed.folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    yield f"http://127.0.0.1:{port}", process
    stop(process)


def dags_shown_to_admin(url: str) -> set[str]:
    """Log in to the web server of Airflow 2.11 as the page says, and return the DAGs that it lists."""
    with httpx.Client(base_url=url, timeout=60) as browser:
        (token,) = re.findall(r'name="csrf_token"[^>]* value="([^"]+)"', browser.get("/login/").text)[:1]
        browser.post("/login/", data={"csrf_token": token, "username": "admin", "password": "admin"})
        return set(re.findall(r"/dags/(\w+)/grid", browser.get("/home").text))


def test_the_ui_is_served_on_loopback_only(followed: Followed, server: tuple[str, subprocess.Popen[str]]) -> None:
    url, process = server
    deadline = time.monotonic() + 240
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                assert response.status == 200
            break
        except OSError:
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline
            time.sleep(1)

    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listening = {one.laddr.ip for each in family for one in each.net_connections() if one.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    if followed.release.airflow.startswith("3"):
        assert "admin" in (followed.folder / "simple_auth_manager_passwords.json.generated").read_text()
    else:
        assert {"first_answer", "first_type", "first_table"} <= dags_shown_to_admin(url)
