"""Every Python snippet of the documentation runs; the DAGs among them run to their end against the emulator."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.dag_runs import run_dags

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(
        path
        for path in (ROOT / "docs").rglob("*.md")
        if path.name not in ("emulator.md", "common-ai.md") and not path.name.startswith("move-from-")
    ),
]
"""Those of emulator.md run in tests/emulator, that of common-ai.md in tests/matrix, and those of moves in tests/e2e."""
FENCED = re.compile(r"^```python\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
DAG_ID = re.compile(r'DAG\(\s*"(\w+)"')


def snippets() -> list[tuple[str, str]]:
    return [
        (f"{page.relative_to(ROOT)}[{number}]", text)
        for page in PAGES
        for number, text in enumerate(FENCED.findall(page.read_text()))
    ]


ALL = snippets()
RUNNABLE = [
    (name, text)
    for name, text in ALL
    # The tutorial runs as a whole in tests/e2e, in a folder of its own.
    if DAG_ID.search(text)
    and "schedule=None" in text
    and not name.startswith("docs/tutorial")
    # Neither a bucket nor the reader's files nor the store of budgets is here.
    and not re.search(r"\"s3://|\"/data/|budget=", text)
]


@pytest.mark.parametrize(("name", "text"), ALL, ids=[name for name, _ in ALL])
def test_a_snippet_runs(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A module with its own name, because pydantic resolves the names of annotations in it.
    with SegmindEmulator() as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", emulator.connection_json)
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(text, name, "exec", dont_inherit=True), namespace)
    for value in namespace.values():
        if type(value).__name__ == "SegmindHook":
            value.close()


@pytest.fixture(scope="module")
def ended(airflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("snippets")
    dags = []
    for number, (_, text) in enumerate(RUNNABLE):
        path = folder / f"snippet_{number}.py"
        path.write_text(text)
        dags.append((str(path), DAG_ID.findall(text)[0]))
    bundle = {
        "name": "dags-folder",
        "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
        "kwargs": {"path": str(folder)},
    }
    with SegmindEmulator() as emulator:
        return run_dags(
            *dags,
            connection=emulator.connection_json,
            AIRFLOW__CORE__DAGS_FOLDER=str(folder),
            AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST=json.dumps([bundle]),
        )


@pytest.mark.airflow
@pytest.mark.parametrize(("name", "text"), RUNNABLE, ids=[name for name, _ in RUNNABLE])
def test_a_dag_of_the_documentation_succeeds(name: str, text: str, ended: dict[str, Any]) -> None:
    run = ended[DAG_ID.findall(text)[0]]

    assert run["state"] == "success", run["log"]


MOVES = {
    f"{page.relative_to(ROOT)}[{number}]": text
    for page in sorted((ROOT / "docs").rglob("move-from-*.md"))
    for number, text in enumerate(FENCED.findall(page.read_text()))
}
all_and_moves = pytest.mark.parametrize(
    ("name", "text"), [*ALL, *MOVES.items()], ids=[*(name for name, _ in ALL), *MOVES]
)
NEEDS_MORE = {
    "docs/how-to/approval.md[0]",
    "docs/how-to/move-from-common-ai.md[0]",
    "docs/how-to/move-from-http-operator.md[0]",
}
"""They have operators of other packages, or of Airflow since 3.1, as their pages say."""


@all_and_moves
def test_a_snippet_imports_nothing_that_only_some_versions_have(name: str, text: str) -> None:
    imports = re.findall(r"^from (airflow(?:\.[\w.]+)?) import (.+)$", text, flags=re.MULTILINE)

    assert name in NEEDS_MORE or [one for one in imports if one != ("airflow", "DAG")] == []


@all_and_moves
def test_a_dag_names_its_schedule_and_if_it_has_one_its_start(name: str, text: str) -> None:
    # Airflow 2.11 runs a DAG without a schedule every day, and refuses one that has a schedule and no start.
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    for call in (one for one in calls if ast.unparse(one.func) == "DAG"):
        named = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert named.get("schedule") == "None" or {"schedule", "start_date"} <= named.keys()


def test_what_an_example_takes_from_the_environment_is_described() -> None:
    page = (ROOT / "docs" / "how-to" / "index.md").read_text()
    for example in (ROOT / "dags_examples").glob("*.py"):
        read = set(re.findall(r'"(SEGMIND_EXAMPLE_[A-Z_]+)"', example.read_text()))
        described = page + (ast.get_docstring(ast.parse(example.read_text())) or "")
        assert {name for name in read if name not in described} == set(), example.name


def test_the_first_dag_has_at_most_twelve_lines() -> None:
    name, text = next(one for one in RUNNABLE if one[0].startswith("docs/how-to/chat.md"))

    assert name == "docs/how-to/chat.md[0]"
    assert len(text.strip().splitlines()) <= 12
