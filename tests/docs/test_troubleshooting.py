"""Every class of errors has its section on docs/troubleshooting.md, and what people read names it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_segmind import exceptions
from airflow_provider_segmind.decorators.chat import segmind_task
from airflow_provider_segmind.exceptions import SegmindCreditsError, SegmindError, with_help
from airflow_provider_segmind.failures import sensor_failures, task_failures
from airflow_provider_segmind.hooks.segmind import SegmindHook
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.sensors.request import SegmindRequestSensor
from tests.docs.test_site import anchors

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
CLASSES = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, SegmindError)]
SENTENCE = "The account cannot pay. Nothing was billed."
HELP = "Help: troubleshooting#insufficient-credits"


def sections() -> dict[str, str]:
    """Return the text of each section by its anchor."""
    parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)[1:]
    return {title.lower().replace(" ", "-"): text for title, text in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_class_has_a_section_that_names_it(kind: type[SegmindError]) -> None:
    assert kind.anchor in anchors(PAGE)
    assert sections()[kind.anchor].strip().startswith(f"`{kind.__name__}`")


def test_each_class_has_its_own_section() -> None:
    assert len({kind.anchor for kind in CLASSES}) == len(CLASSES)
    assert {"without-an-error", *(kind.anchor for kind in CLASSES)} == set(sections())


@pytest.mark.parametrize(
    "kind", [kind for kind in CLASSES if not kind.__subclasses__()], ids=lambda kind: kind.__name__
)
def test_a_section_says_what_it_cost_and_what_to_do(kind: type[SegmindError]) -> None:
    for part in ("- **Cost:**", "- **Retried by Airflow:**", "- **What to do:**"):
        assert part in sections()[kind.anchor]


def messages() -> Iterator[str]:
    """Yield the strings of the package without its docstrings, with … for what is filled in."""
    for path in (ROOT / "airflow_provider_segmind").rglob("*.py"):
        tree = ast.parse(path.read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(ast.literal_eval(one)) if isinstance(one, ast.Constant) else "…" for one in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value


def quoted() -> list[str]:
    """Return what the page says that messages contain."""
    tables = re.findall(r"^\| the message contains .*\n\| --- .*\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    cells = [re.split(r"(?<!\\)\|", row)[1] for table in tables for row in table.splitlines()]
    return [one.replace("\\|", "|") for cell in cells for one in re.findall(r"`([^`]+)`", cell)]


def test_what_the_page_quotes_is_in_a_message() -> None:
    known = list(messages())
    # It is put together from two strings.
    wanted = [one for one in quoted() if one != "has no argument"]

    assert len(wanted) > 20
    for words in wanted:
        pattern = re.compile(".*".join(map(re.escape, words.split("…"))))
        assert any(pattern.search(message) for message in known), words


def test_the_message_itself_has_no_help() -> None:
    # It is stored about rows and sent by triggers.
    assert str(SegmindCreditsError(SENTENCE)) == SENTENCE


@pytest.mark.parametrize("failures", [task_failures, lambda: sensor_failures(soft_fail=False, never_fail=False)])
def test_what_airflow_shows_ends_with_the_section_once(failures: object) -> None:
    # A failure may pass the door twice.
    with pytest.raises(SegmindError) as caught, failures(), failures():  # type: ignore[operator]
        raise SegmindCreditsError(SENTENCE)

    assert str(caught.value) == f"{SENTENCE} {HELP}"


def test_a_correction_of_the_message_leaves_the_section_at_its_end() -> None:
    with pytest.raises(SegmindError) as caught, task_failures(lambda: "an earlier try may have sent requests"):
        raise with_help(SegmindCreditsError("It is empty. Nothing was sent."))

    assert str(caught.value) == f"It is empty. Nothing more was sent; an earlier try may have sent requests. {HELP}"


def test_the_error_of_a_hook_names_its_section(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps({"conn_type": "segmind"}))
    monkeypatch.delenv("SEGMIND_API_KEY", raising=False)

    with pytest.raises(SegmindError, match=r"Help: troubleshooting#invalid-configuration$"):
        SegmindHook().list_models()


class OfAUser(SegmindChatOperator):
    """An operator of somebody else."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


MISTAKES: dict[str, Callable[[], Any]] = {
    "value": lambda: SegmindChatOperator(task_id="t", prompt="x", timeout=-1),
    "name": lambda: SegmindChatOperator(task_id="t", promt="x"),
    "mapped": lambda: SegmindChatOperator.partial(task_id="t", promt="x"),
    "sensor": lambda: SegmindRequestSensor(task_id="t", request_id=""),
    "subclass": lambda: OfAUser(task_id="t", prompt="x", timeout=-1),
    "function": lambda: segmind_task(task_id="t", timeout=-1)(lambda: "x")(),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_an_import_error_of_a_dag_names_its_section_once(mistake: Callable[[], Any]) -> None:
    with DAG("d", schedule=None), pytest.raises(SegmindError) as caught:
        mistake()

    assert str(caught.value).endswith(
        (". Help: troubleshooting#invalid-configuration", "? Help: troubleshooting#invalid-configuration")
    )
    assert str(caught.value).count("Help:") == 1


@pytest.mark.parametrize(
    ("urls", "page"),
    [
        (
            ["Source, https://x.example/p", "Documentation, https://x.example/p/tree/v1/docs"],
            "https://x.example/p/tree/v1/docs/troubleshooting.md",
        ),
        (["Source, https://x.example/p"], "troubleshooting"),
        (None, "troubleshooting"),
    ],
)
def test_the_section_is_an_address_where_the_package_was_built_with_one(
    urls: list[str] | None, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = Message()
    for url in urls or []:
        installed["Project-URL"] = url

    def metadata_of(name: str) -> Message:
        if urls is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "metadata", metadata_of)
    exceptions._documentation.cache_clear()
    try:
        assert exceptions.help_page("rate-limit") == f"{page}#rate-limit"
    finally:
        exceptions._documentation.cache_clear()
