"""The example DAGs of chat run unchanged, against the emulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator
from tests.support.chat_tasks import PIXEL
from tests.support.dag_runs import run_dags

pytestmark = pytest.mark.airflow

EXAMPLES = [
    (f"dags_examples/example_segmind_{name}.py", f"example_segmind_{name}")
    for name in ("triage", "caption", "summarize_pdf", "families")
]
TRIAGE = {"team": "billing", "urgent": True, "summary": "Charged twice."}


@pytest.fixture(scope="module")
def ran(airflow_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("store")
    (folder / "cat.png").write_bytes(PIXEL)
    (folder / "report.pdf").write_bytes(b"%PDF-1.7 quarterly figures")
    with SegmindEmulator() as emulator:
        emulator.script(match="Classify this ticket", json=TRIAGE)
        ended = run_dags(
            *EXAMPLES,
            connection=emulator.connection_json,
            SEGMIND_EXAMPLE_IMAGE=f"file://{folder}/cat.png",
            SEGMIND_EXAMPLE_DOCUMENT=f"file://{folder}/report.pdf",
            SEGMIND_EXAMPLE_OUTPUT=f"file://{folder}/out",
        )
    return ended, emulator, folder


@pytest.mark.parametrize("dag_id", [dag_id for _, dag_id in EXAMPLES])
def test_an_example_succeeds(dag_id: str, ran: Any) -> None:
    ended = ran[0][dag_id]

    assert ended["state"] == "success", ended["log"]


def test_every_ticket_becomes_data_and_is_paid_for_once(ran: Any) -> None:
    ended, emulator, _ = ran

    assert ended["example_segmind_triage"]["values"]["triage"] == [TRIAGE] * 3
    assert ended["example_segmind_triage"]["values"]["count"] == {"billing": 3}
    posts = [post for post in emulator.posts() if "Classify this ticket" in str(post.json)]
    assert len(posts) == 3
    assert "{{ order }}" in str(posts[0].json) + str(posts[1].json) + str(posts[2].json)


def test_the_image_is_attached(ran: Any) -> None:
    ended, emulator, _ = ran

    assert ended["example_segmind_caption"]["values"]["describe"].startswith("echo: Describe this image")
    sent = [str(post.json) for post in emulator.posts() if "Describe this image" in str(post.json)]
    assert "image/png" in sent[0]


def test_the_summary_is_stored_as_a_file(ran: Any) -> None:
    ended, _, folder = ran

    (summary,) = (folder / "out").glob("*/summary.md")
    assert summary.read_text() == ended["example_segmind_summarize_pdf"]["values"]["summarize"]


def test_only_the_model_changes_between_families(ran: Any) -> None:
    ended, emulator, _ = ran
    bodies = [post.json for post in emulator.posts() if "haiku" in str(post.json)]

    assert ended["example_segmind_families"]["values"]["ask"] == ["echo: Write a haiku about a data pipeline."] * 3
    assert sorted("".join(sorted(body)) for body in bodies) == [
        "instructionmax_tokensmessages",
        "max_tokensmessages",
        "max_tokensmessages",
    ]
