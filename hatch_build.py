"""
What the build adds to the distributions: project URLs, links that lead somewhere, and an SBOM.

``SEGMIND_PROJECT_URL`` is the address of the repository, such as ``https://github.com/<owner>/airflow-provider-segmind``.
Where it is set, the metadata has project URLs, and the README's links are absolute, to the tag of this version. Where
it is not, there are no URLs, and the links stay as they are. Nothing else in this repository names the address.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

VARIABLE = "SEGMIND_PROJECT_URL"
SBOM = Path("build", "airflow-provider-segmind.cdx.json")
LINK = re.compile(r"(?P<image>!?)(?P<text>\[[^\]]*\])\((?P<path>[^)\s:#]+)(?P<anchor>#[^)\s]*)?\)")
"""A link of Markdown to a file of this repository: neither an address nor a place in the same page."""
LICENCES = {
    "apache-airflow": "Apache-2.0",
    "httpx": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "jsonschema": "MIT",
    "pydantic": "MIT",
    "tenacity": "Apache-2.0",
}
"""Of the required packages, as their own metadata says."""


class ProjectMetadata(MetadataHookInterface):
    """Sets ``readme`` and ``urls``."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Add both to the section ``project``."""
        url = project_url(os.environ.get(VARIABLE, ""))
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        tag = f"v{version(Path(self.root))}"
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, url, tag) if url else text}
        metadata["urls"] = urls(url, tag) if url else {}


class Sbom(BuildHookInterface):  # type: ignore[type-arg]
    """Puts an SBOM into the wheel, as ``.dist-info/sboms/`` (PEP 770); hatchling before 1.28 knows no such folder."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write it and name it to the builder."""
        if self.target_name != "wheel" or "sbom_files" not in build_data:
            return
        core = self.metadata.core
        path = Path(self.root, SBOM)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(sbom(core.name, self.metadata.version, core.dependencies), indent=2) + "\n")
        build_data["sbom_files"].append(str(SBOM))


def project_url(given: str) -> str:
    """
    Return the address without a slash at its end, empty if there is none.

    :raises ValueError: it is not an address that a browser opens, so it would be wrong in every release.
    """
    url = given.strip().rstrip("/")
    parts = urlsplit(url)
    if url and (parts.scheme != "https" or not parts.netloc or not parts.path or parts.query or parts.fragment):
        raise ValueError(f"{VARIABLE} is {given!r}; it must be the https address of the repository.")
    return url


def version(root: Path) -> str:
    """Return the version of the package."""
    text = (root / "airflow_provider_segmind" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if found is None:
        raise ValueError("airflow_provider_segmind/__init__.py has no __version__.")
    return found[1]


def urls(url: str, tag: str) -> dict[str, str]:
    """Return the project URLs; Airflow's list of providers links ``Documentation``."""
    return {
        "Source": url,
        "Documentation": f"{url}/tree/{tag}/docs",
        "Changelog": f"{url}/blob/{tag}/CHANGELOG.md",
        "Issues": f"{url}/issues",
        "Security": f"{url}/security/advisories/new",
    }


def absolute(text: str, url: str, tag: str) -> str:
    """Make the links of a Markdown text absolute."""

    def replaced(link: re.Match[str]) -> str:
        kind = "raw" if link["image"] else "blob"
        return f"{link['image']}{link['text']}({url}/{kind}/{tag}/{link['path']}{link['anchor'] or ''})"

    return LINK.sub(replaced, text)


def sbom(name: str, released: str, dependencies: list[str]) -> dict[str, Any]:
    """
    Return what is in the wheel, and what it requires, as CycloneDX 1.6.

    The wheel contains nothing that others wrote. Which version of a required package is installed is decided where the
    wheel is, so each has its range instead. There is no time in it, so that the same source makes the same wheel.
    """
    required = {re.split(r"[^\w.-]", each, maxsplit=1)[0]: each for each in dependencies}
    root = f"pkg:pypi/{name}@{released}"
    components = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{package}",
            "name": package,
            "purl": f"pkg:pypi/{package}",
            "licenses": [{"license": {"id": LICENCES[package]}}],
            "properties": [{"name": "requirement", "value": text}],
        }
        for package, text in sorted(required.items())
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, root)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": root,
                "name": name,
                "version": released,
                "purl": root,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": [
            {"ref": root, "dependsOn": [each["bom-ref"] for each in components]},
            *({"ref": each["bom-ref"]} for each in components),
        ],
    }
