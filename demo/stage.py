"""What every demonstration stands on: a home that goes, an emulator, and an end that leaves nothing running."""

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
    """Run a demonstration and return its exit code, whatever ends it."""
    # Unwinds the with blocks of the demonstration, which end what was started.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return demonstrate()
    except KeyboardInterrupt:
        display.trouble("Interrupted; everything that was started is ended.")
        return 130
    except (StackError, AirflowRestError, RuntimeError, httpx.HTTPError) as error:
        display.trouble(str(error))
        return 1


@contextlib.contextmanager
def temporary_home() -> Iterator[Path]:
    """Make a folder below ``.demo`` that goes with the block."""
    parent = ROOT / ".demo"
    parent.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="run-", dir=parent))
    try:
        yield home
    finally:
        # When Airflow did not start, the message names log files below it.
        if not isinstance(sys.exception(), StackError):
            shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def emulated_segmind(display: Display, *, home: Path, options: Sequence[str]) -> Iterator[EmulatorProcess]:
    """Start an emulator with a key of its own; it ends with the block."""
    with contextlib.ExitStack() as scope:
        with display.step("Starting the emulator"):
            emulator = EmulatorProcess(
                log_path=home / "emulator.log", api_key=f"SG_{secrets.token_hex(8)}", options=options
            )
            scope.enter_context(emulator)
        yield emulator


def show_failure(display: Display, rest: AirflowRest, dag_id: str, run_id: str, instances: list[Json]) -> None:
    """Show the end of the log of what failed."""
    for each in instances:
        if each["state"] in ("failed", "up_for_retry"):
            log = rest.log(dag_id, run_id, each["task_id"], try_number=each["try_number"])
            display.trouble(f"Task {each['task_id']} {each['state']}:\n" + "\n".join(log.splitlines()[-15:]))
    display.trouble(f"Run {run_id} did not succeed.")


def stay(display: Display, stack: AirflowStack, dag_id: str, run_id: str, **more: str) -> None:
    """Leave everything up until Ctrl-C."""
    display.places(
        {
            "Airflow": f"{stack.base_url}/dags/{dag_id}/runs/{run_id}",
            "login": "none: everybody who opens the page is an admin",
            "files": str(stack.home),
            **more,
            "end": "Ctrl-C",
        }
    )
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            stack.check_alive()
            time.sleep(1)


def _interrupt(signal_number: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt
