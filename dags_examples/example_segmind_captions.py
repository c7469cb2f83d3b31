"""Caption the images of a folder: one row per image, one Parquet file of captions, and each image is paid for once."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.operators.enrich import SegmindEnrichFileOperator

try:
    from airflow.sdk import DAG, ObjectStoragePath, task
except ImportError:  # Airflow 2.11
    from airflow import DAG
    from airflow.decorators import task
    from airflow.io.path import ObjectStoragePath

# Any ObjectStoragePath URI, such as "s3://aws_default@my-bucket/segmind"; without one a folder of this Airflow.
HOME = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
FOLDER = os.environ.get("SEGMIND_EXAMPLE_OUTPUT", (HOME / "segmind").as_uri()) + "/captions"
# Each run writes into its own.
RUN = FOLDER + "/{{ run_id }}"
COLOURS = {"sky.png": (90, 160, 255), "grass.png": (60, 170, 60), "brick.png": (170, 60, 50)}


class Caption(BaseModel):
    caption: str = Field(description="One sentence, in English.")
    colours: list[str]


def png(colour: tuple[int, int, int], size: int = 16) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    lines = (b"\0" + bytes(colour) * size) * size
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


with DAG("example_segmind_captions", schedule=None, tags=["segmind", "example"]):

    @task
    def take_photos() -> str:
        folder = ObjectStoragePath(FOLDER) / "photos"
        folder.mkdir(parents=True, exist_ok=True)
        for name, colour in COLOURS.items():
            (folder / name).write_bytes(png(colour))
        return str(folder)

    @task
    def list_photos(folder: str) -> list[dict[str, Any]]:
        return [{"name": path.name} for path in sorted(ObjectStoragePath(folder).iterdir(), key=lambda path: path.name)]

    captions = SegmindEnrichFileOperator(
        task_id="caption",
        model="gemini-3.1-flash-lite",
        source=list_photos(take_photos()),
        key="name",
        prompt="Describe this image for someone who cannot see it.",
        # Each file is read just before its row is submitted; an image that has changed gets a new caption.
        files=[f"{FOLDER}/photos/{{name}}"],
        output_type=Caption,
        ledger_path=f"{FOLDER}/ledger",
        output_path=f"{RUN}/captions.parquet",
        max_cost=1.0,
        retries=2,
    )

    @task
    def report(manifest: dict[str, Any]) -> str:
        return f"{manifest['outcomes']['success']} images captioned for {format_usd(manifest['cost'])}"

    report(captions.output)
