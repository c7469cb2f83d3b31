"""What ``hatch_build.py`` adds to the metadata: project URLs, links that lead somewhere, an SBOM."""

from __future__ import annotations

import json
import re
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.metadata import metadata
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import airflow_provider_segmind
from tests.matrix.versions import project
from tests.packaging.conftest import ROOT, build

URL = "https://git.example.invalid/somebody/airflow-provider-segmind"
TAG = f"v{airflow_provider_segmind.__version__}"
RELATIVE = re.compile(r"\]\((?!https?://|#)([^)]+)\)")

spec = spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
assert spec is not None
assert spec.loader is not None
hatch_build: Any = module_from_spec(spec)
spec.loader.exec_module(hatch_build)


def read(wheel: Path, name: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        (found,) = [each for each in archive.namelist() if each.endswith(name)]
        return archive.read(found)


def described(wheel: Path) -> Message:
    return message_from_bytes(read(wheel, ".dist-info/METADATA"))


def text_of(found: Message) -> str:
    body = found.get_payload(decode=True)
    assert isinstance(body, bytes)
    return body.decode()


@pytest.fixture(scope="module")
def addressed(tmp_path_factory: pytest.TempPathFactory) -> Message:
    """The metadata of a build that knows the address, with the slash at its end that people copy."""
    folder = tmp_path_factory.mktemp("addressed")
    build(ROOT, folder, "--wheel", project_url=f"{URL}/")
    return described(next(folder.glob("*.whl")))


def test_without_the_address_no_url_is_invented(wheel: Path) -> None:
    found = described(wheel)

    assert found.get_all("Project-URL") is None
    assert found["Home-page"] is None
    assert text_of(found) == (ROOT / "README.md").read_text()


def test_with_the_address_the_project_urls_are_there(addressed: Message) -> None:
    urls = dict(each.split(", ") for each in addressed.get_all("Project-URL") or [])

    assert urls["Source"] == URL
    assert {"Documentation", "Changelog", "Issues", "Security"} <= urls.keys()
    assert all(url.startswith(URL) for url in urls.values())


def test_with_the_address_every_link_of_the_readme_is_absolute(addressed: Message) -> None:
    text = text_of(addressed)
    readme = (ROOT / "README.md").read_text()
    linked = RELATIVE.findall(readme)

    assert linked
    assert RELATIVE.findall(text) == []
    for path in linked:
        assert f"({URL}/blob/{TAG}/{path})" in text or f"({URL}/raw/{TAG}/{path})" in text
        assert (ROOT / path.partition("#")[0]).exists(), path


def test_an_image_is_linked_as_a_file_and_other_addresses_stay() -> None:
    text = "![a](docs/a.png) [b](docs/b.md#c) [d](https://d.invalid/e) [f](#g) [h](mailto:i) `x[0](y)`"

    assert hatch_build.absolute(text, URL, "v1") == (
        f"![a]({URL}/raw/v1/docs/a.png) [b]({URL}/blob/v1/docs/b.md#c) [d](https://d.invalid/e) [f](#g) [h](mailto:i) "
        f"`x[0]({URL}/blob/v1/y)`"
    )


@pytest.mark.parametrize("given", ["http://a.invalid/b", "a.invalid/b", "https://a.invalid", "https://a.invalid/b?c"])
def test_an_address_that_no_browser_opens_stops_the_build(given: str) -> None:
    with pytest.raises(ValueError, match="SEGMIND_PROJECT_URL"):
        hatch_build.project_url(given)


def test_nothing_in_the_repository_names_an_address_of_its_own() -> None:
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / ".github").rglob("*.*"),
        ROOT / "pyproject.toml",
    ]
    own = re.compile(r"https?://[^\s)\"'>]*airflow-provider-segmind", re.IGNORECASE)

    assert {page.name: found for page in pages if (found := own.findall(page.read_text()))} == {}


def test_the_changelog_has_a_date_for_this_version() -> None:
    # The workflow that publishes looks for the same heading.
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)

    assert headings[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(TAG[1:])} \(\d{{4}}-\d\d-\d\d\)", headings[1])


def test_the_wheel_has_an_sbom_of_what_it_requires(wheel: Path) -> None:
    found = json.loads(read(wheel, ".dist-info/sboms/airflow-provider-segmind.cdx.json"))
    required = [each for each in described(wheel).get_all("Requires-Dist") or [] if "extra ==" not in each]
    listed = {each["name"]: each for each in found["components"]}

    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert found["metadata"]["component"]["version"] == airflow_provider_segmind.__version__
    assert {each["properties"][0]["value"] for each in listed.values()} == set(required)
    assert listed.keys() == {Requirement(each).name for each in required}
    assert "timestamp" not in found["metadata"]


def test_the_licences_in_the_sbom_are_those_of_the_packages() -> None:
    for name, licence in hatch_build.LICENCES.items():
        stated = metadata(name)
        known = [stated.get("License-Expression"), stated.get("License"), *(stated.get_all("Classifier") or [])]

        # Jinja2 says only that it is BSD; its file has three clauses.
        assert any(licence.partition("-3")[0] in each for each in known if each), name


def test_the_security_page_lists_every_dependency() -> None:
    page = (ROOT / "docs" / "explanation" / "security.md").read_text()

    for each in project()["dependencies"]:
        name = Requirement(each).name
        assert f"| `{name}` |" in page, name
        assert f"| {hatch_build.LICENCES[name]} |" in page
    for extra, wanted in project()["optional-dependencies"].items():
        (line,) = re.findall(rf"^\| `\[{extra}\]` \| (.*)$", page, flags=re.MULTILINE)
        assert all(f"`{Requirement(each).name}`" in line for each in wanted), extra
