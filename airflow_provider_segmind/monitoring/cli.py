"""
The arguments of the command, for ``airflow segmind`` and for ``python -m airflow_provider_segmind``.

From Airflow 3.2 on, every ``airflow`` command imports this module, so it imports nothing that takes time; what a
command does is imported when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NoReturn

PROGRAM = "python -m airflow_provider_segmind"
ABOUT = "Inspect and control requests to Segmind and what they cost."
EXIT_CODES = (
    "Exit codes: 0 done; 1 the check found a problem, or the requested item is missing or cannot be read; "
    "2 wrong arguments; 3 the metadata database cannot be reached from here."
)
_COMMANDS = "airflow_provider_segmind.monitoring.commands"


class Argument:
    """An argument: its flags, and what ``argparse`` takes besides."""

    def __init__(self, *flags: str, **options: Any) -> None:
        self.flags, self.options = flags, options


@dataclass(frozen=True, slots=True)
class Command:
    """
    A command.

    :param function: its name in the module of the commands.
    :param details: shown by ``--help`` below its one-line ``help``.
    """

    name: str
    help: str
    function: str
    arguments: tuple[Argument, ...]
    details: str = ""

    def run(self, values: argparse.Namespace) -> NoReturn:
        """Run it with parsed arguments, and leave with its exit code."""
        # Only now, because every `airflow` command imports this module.
        commands = import_module(_COMMANDS)
        raise SystemExit(commands.run(getattr(commands, self.function), values))

    @property
    def description(self) -> str:
        """What ``--help`` says."""
        return " ".join(part for part in (f"{self.help}.", self.details, EXIT_CODES) if part)


def _positive(text: str) -> int:
    """Read a number of rows."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return number


OUTPUT = Argument(
    *("-o", "--output"),
    choices=("table", "json"),
    default="table",
    help="form of the output; JSON has exact figures, in micro-dollars",
)
CONNECTION = Argument("--conn-id", default=None, help="the Connection (default: all of type segmind)")
DAG = Argument("--dag", action="append", help="only tasks of this DAG; may be repeated")
TARGET = Argument(
    "target",
    metavar="LEDGER_OR_MANIFEST",
    help="a ledger's folder, or a manifest (….manifest.json); a path, or the URI of an object store",
)
COMMANDS = (
    Command(
        "check",
        "Check whether the key is valid and the host reachable, and show which stores are in use",
        "check",
        (CONNECTION, OUTPUT),
        "It calls Segmind once for each Connection, which is free.",
    ),
    Command(
        "requests",
        "List the requests that tasks wait for",
        "list_requests",
        (
            DAG,
            Argument("--model", help="only requests to this model"),
            Argument("--state", help="only requests in this state, such as QUEUED; asks Segmind for each, like --poll"),
            Argument("--poll", action="store_true", help="ask Segmind for the state of each request, which is free"),
            Argument(
                "--at-segmind",
                action="store_true",
                help="list Segmind's request history instead, and mark requests that no known task submitted",
            ),
            Argument("--limit", type=_positive, default=100, help="rows of the history that are read (default: 100)"),
            CONNECTION,
            OUTPUT,
        ),
        "Requests of a table are listed while its task is deferred; see 'table' for those of a running one.",
    ),
    Command(
        "spend",
        "Show USD and requests as billed",
        "show_spend",
        (
            Argument("--since", help="ISO 8601, epoch seconds, today, or a span such as 12h or 7d (default: all)"),
            Argument(
                "--by", default="dag", help="any of dag, task, model, day, run, separated by commas (default: dag)"
            ),
            Argument(
                "--reconcile",
                action="store_true",
                help="first complete the record from Segmind's history, since --since or for 7 days; free",
            ),
            Argument(
                "--conn-id",
                action="append",
                help="with --reconcile: only the history of this Connection, which may be one of the environment "
                "or of a secrets backend; may be repeated (default: all of the database)",
            ),
            DAG,
            OUTPUT,
        ),
        "From the spend record ([segmind] spend_path or spend_conn_id); without one, what XComs and manifests "
        "still show.",
    ),
    Command(
        "budgets",
        "Show what is spent, reserved and left of each budget",
        "show_budgets",
        (CONNECTION, OUTPUT),
        "Budgets of Connections and of [segmind] budgets, with the day and the month that are open now.",
    ),
    Command(
        "dead-letters",
        "Print the rows of a table without an answer as JSON lines: key, outcome, reason",
        "list_dead_letters",
        (
            Argument("manifest", metavar="MANIFEST", help="….manifest.json of the run: a path or URI"),
            Argument("--outcome", help="only rows with this outcome, such as truncated"),
            Argument("--reason", help="only rows whose reason contains this text"),
            Argument("--limit", type=_positive, help="at most this many rows"),
        ),
    ),
    Command(
        "table",
        "Show the progress, outcomes, reasons, cost and files of a table, or what is known of one row",
        "show_table",
        (
            TARGET,
            Argument(
                "--row",
                metavar="KEY",
                help="a row: the value of its key, JSON such as '{\"id\": 7}' for several key columns; a request id or "
                "a fingerprint in hex is found as well",
            ),
            Argument("--ledger", help="the ledger's folder, where the manifest does not name it"),
            OUTPUT,
        ),
        "A key is found through a manifest, in the output file or the dead letters it names; a ledger alone knows "
        "request ids and fingerprints.",
    ),
    Command(
        "forget",
        "Remove old answers from the answer cache, or some rows of a table from everywhere",
        "forget_answers",
        (
            Argument(
                "targets",
                nargs="*",
                metavar="MANIFEST",
                help="….manifest.json of each run of the table, or a ledger's folder; paths or URIs",
            ),
            Argument(
                "--row",
                metavar="KEY",
                help="the rows: the value of their key, JSON such as '{\"customer\": 7}' for some of several key "
                "columns, a request id, or a fingerprint in hex",
            ),
            Argument(
                "--older-than",
                metavar="SPAN",
                help="answers whose request is older than this, such as 90d or 12h; with a "
                "manifest or a ledger, its rows that have not changed for that long",
            ),
            Argument("--answers-path", help="the answer cache (default: [segmind] answers_path)"),
            Argument("--ledger", help="the ledger's folder, where a manifest does not name it"),
            Argument("--yes", action="store_true", help="remove what was found; without it nothing is changed"),
            OUTPUT,
        ),
        "Matches are listed first; after they are removed, the search is repeated.",
    ),
    Command(
        "pause",
        "Stop everything that spends: no task of the deployment submits a request until 'resume'",
        "stop_spending",
        (Argument("--reason", help="shown by the tasks that wait"),),
        "Requests that were submitted continue and are billed. A running table notices within 10 seconds.",
    ),
    Command("resume", "Let tasks submit requests again", "allow_spending", ()),
)


def get_commands() -> list[Any]:
    """Return the commands for ``airflow segmind``."""
    from airflow_provider_segmind.compat import ActionCommand, Arg, GroupCommand

    make: Any = Arg
    actions = [
        ActionCommand(
            name=each.name,
            help=each.help,
            func=each.run,
            args=[make(argument.flags, **argument.options) for argument in each.arguments],
            description=each.description,
        )
        for each in COMMANDS
    ]
    return [GroupCommand(name="segmind", help=ABOUT, subcommands=actions)]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command with the arguments of the process; leaves with its exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description=f"{ABOUT} {EXIT_CODES}")
    subcommands = parser.add_subparsers(metavar="COMMAND", required=True)
    for each in COMMANDS:
        sub = subcommands.add_parser(each.name, help=each.help, description=each.description)
        for argument in each.arguments:
            sub.add_argument(*argument.flags, **argument.options)
        sub.set_defaults(run=each.run)
    values = parser.parse_args(arguments)
    run: Callable[[argparse.Namespace], NoReturn] = values.run
    run(values)
