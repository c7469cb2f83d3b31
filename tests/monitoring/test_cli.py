"""The command as a process, and what it costs every other `airflow` command."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_segmind.monitoring import commands
from airflow_provider_segmind.monitoring.cli import COMMANDS, get_commands, main
from tests.support.manifests import manifest_of

PROGRAM = [sys.executable, "-m", "airflow_provider_segmind"]


def test_its_arguments_import_nothing_that_takes_time() -> None:
    code = (
        "import sys, airflow_provider_segmind.monitoring.cli; "
        "print({name.partition('.')[0] for name in sys.modules} & {'airflow', 'sqlalchemy', 'rich', 'pydantic'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"


def test_airflow_gets_the_same_commands_and_arguments() -> None:
    (group,) = get_commands()
    for action, ours in zip(group.subcommands, COMMANDS, strict=True):
        assert (action.name, action.func) == (ours.name, ours.run)
        parser = argparse.ArgumentParser()
        for given in action.args:
            given.add_to_parser(parser)
        assert [each.option_strings or [each.dest] for each in parser._actions[1:]] == [
            list(each.flags) for each in ours.arguments
        ]
    assert group.name == "segmind"


def test_every_command_has_a_function() -> None:
    assert [each.name for each in COMMANDS if not callable(getattr(commands, each.function, None))] == []


@pytest.mark.parametrize("name", [each.name for each in COMMANDS])
def test_the_help_of_a_command_has_the_exit_codes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])

    assert left.value.code == 0
    assert "3 the metadata database cannot be reached" in " ".join(capsys.readouterr().out.split())


def test_a_wrong_argument_is_exit_code_2() -> None:
    with pytest.raises(SystemExit) as left:
        main(["requests", "--nonsense"])

    assert left.value.code == 2


def test_without_a_metadata_database_it_says_so_in_one_line(tmp_path: Path) -> None:
    # The mode for unit tests logs on the standard output when Airflow is imported.
    settings = {"CORE__UNIT_TEST_MODE": "False", "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/none/airflow.db"}
    environment = {**os.environ, **{f"AIRFLOW__{name}": value for name, value in settings.items()}}

    done = subprocess.run([*PROGRAM, "check"], capture_output=True, text=True, env=environment, check=False)

    assert done.returncode == 3
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "metadata database cannot be read from here" in done.stderr
    assert str(tmp_path) not in done.stderr


def test_a_pipe_that_is_closed_early_is_no_error(tmp_path: Path) -> None:
    manifest = tmp_path / "out.manifest.json"
    manifest.write_text(json.dumps(manifest_of(3).to_json()))
    environment = {**os.environ, "AIRFLOW__CORE__UNIT_TEST_MODE": "False"}
    command = [*PROGRAM, "table", str(manifest)]

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        complaints = running.stderr.read()

    assert (running.returncode, complaints) == (0, b"")
