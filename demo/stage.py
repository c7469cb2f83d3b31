"""What the demonstrations share: a temporary home, an emulator, and an end that stops every process."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from demo.emulator import EmulatorProcess
from demo.rest import AirflowRestError
from demo.stack import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

    from demo.display import Display
    from demo.rest import AirflowRest, Json
    from demo.stack import AirflowStack

ROOT = Path(__file__).resolve().parent.parent


def play(display: Display, demonstrate: Callable[[], int]) -> int:
    """Run a demonstration and return its exit code, even if it is interrupted or fails."""
    # An exception unwinds the with blocks of the demonstration, which stop what was started.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return demonstrate()
    except KeyboardInterrupt:
        display.problem("Interrupted; all started processes have been stopped.")
        return 130
    except (StackError, AirflowRestError, RuntimeError, httpx.HTTPError) as error:
        display.problem(str(error))
        return 1


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """Create a folder below ``.demo`` that is removed at the end of the block."""
    parent = ROOT / ".demo"
    parent.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    try:
        yield home
    finally:
        # If Airflow did not start, the error message refers to log files in it.
        if not isinstance(sys.exception(), StackError):
            shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def emulated_segmind(display: Display, *, home: Path, options: Sequence[str]) -> Iterator[EmulatorProcess]:
    """Start an emulator with a random key; it is stopped at the end of the block."""
    with contextlib.ExitStack() as scope:
        with display.step("Starting the emulator"):
            emulator = EmulatorProcess(
                log_path=home / "emulator.log", api_key=f"SG_{secrets.token_hex(8)}", options=options
            )
            scope.enter_context(emulator)
        yield emulator


def show_failure(display: Display, rest: AirflowRest, dag_id: str, run_id: str, instances: list[Json]) -> None:
    """Show the end of the log of each failed task."""
    for each in instances:
        if each["state"] in ("failed", "up_for_retry"):
            log = rest.log(dag_id, run_id, each["task_id"], try_number=each["try_number"])
            display.problem(f"Task {each['task_id']} {each['state']}:\n" + "\n".join(log.splitlines()[-15:]))
    display.problem(f"Run {run_id} did not succeed.")


def stay(display: Display, stack: AirflowStack, dag_id: str, run_id: str, **more: str) -> None:
    """Keep everything running until Ctrl-C."""
    display.locations(
        {
            "Airflow": f"{stack.base_url}/dags/{dag_id}/runs/{run_id}",
            "login": "none: every visitor is an admin",
            "files": str(stack.home),
            **more,
            "stop": "Ctrl-C",
        }
    )
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            stack.check_alive()
            time.sleep(1)


def _interrupt(signal_number: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt
