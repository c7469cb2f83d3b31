"""The built wheel under the constraints of every supported Airflow, as ``pip install … -c …`` resolves it."""

from __future__ import annotations

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.matrix.versions import PRICES, VERSIONS, Version, extras, requirements

UV = Path(sys.executable).parent / "uv"
RELEASES = {version.name: version for version in VERSIONS if not version.lowest}
NEWEST = {"genai-prices", "httpx2", "httpcore2", "truststore"}
"""What the extra of prices brings: no Airflow pins it, except that 3.3 pins what is there for its own sake."""
MANAGED_AIRFLOW = Path(__file__).parents[2] / "docs" / "how-to" / "managed-airflow.md"
REQUIREMENTS = re.findall(r"^```text\n(.*?)^```$", MANAGED_AIRFLOW.read_text(), flags=re.DOTALL | re.MULTILINE)
every_release = pytest.mark.parametrize("release", RELEASES.values(), ids=RELEASES)


def installs(version: Version, python: str) -> list[str]:
    """Return the installations to test: each extra on the first Python, none and all of them on every Python."""
    known = sorted({*extras(version), PRICES})
    alone = [f"[{extra}]" for extra in known] if python == version.pythons[0] else []
    return ["", f"[{','.join(known)}]", *alone]


def ours(extras: str, wheel: Path) -> str:
    """Return the requirement of the built wheel with extras like ``[sql,parquet]``."""
    return f"airflow-provider-segmind{extras} @ {wheel.as_uri()}"


def resolve(version: Version, python: str, required: str) -> subprocess.CompletedProcess[str]:
    """Resolve requirements, one a line, under the constraints of a release."""
    command = [UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    command += ["--python", sys.executable, "--python-version", python]
    command += ["--no-emit-index-url", "--constraints", version.constraints, "-"]
    run = partial(subprocess.run, input=required, text=True, capture_output=True, check=False, timeout=120)
    # The cached index is enough and takes a tenth of a second; only the first time is the index queried.
    done = run([*command, "--offline"])
    return run(command) if done.returncode else done


Resolved = dict[tuple[str, str, str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def resolved(wheel: Path) -> Resolved:
    """The result of every installation, by version of Airflow, of Python, and by extras."""
    wanted = [
        (version, python, found)
        for version in RELEASES.values()
        for python in version.pythons
        for found in installs(version, python)
    ]
    with ThreadPoolExecutor(max_workers=2) as pool:
        done = pool.map(lambda one: resolve(one[0], one[1], ours(one[2], wheel)), wanted)
    return {(version.name, python, named): one for (version, python, named), one in zip(wanted, done, strict=True)}


def pins(text: str) -> dict[str, str]:
    """Read ``name==version`` lines; the line of the wheel itself has a URL."""
    return dict(line.split("==") for line in text.split("\n") if "==" in line)


@every_release
def test_the_wheel_installs_bare_and_with_every_extra(release: Version, resolved: Resolved) -> None:
    failed = {key[1:]: one.stderr for key, one in resolved.items() if key[0] == release.name and one.returncode}

    assert failed == {}


@every_release
def test_no_package_of_airflow_changes_its_version(release: Version, resolved: Resolved) -> None:
    pinned = pins(release.constraints.read_text())

    for key, one in resolved.items():
        if key[0] == release.name:
            found = pins(one.stdout)
            assert found["apache-airflow"] == release.airflow, key
            assert {
                name: version
                for name, version in found.items()
                if pinned.get(name) != version and (name in pinned or name not in NEWEST)
            } == {}, key


@pytest.mark.parametrize("text", REQUIREMENTS, ids=["mwaa", "composer", "astronomer"])
def test_a_requirements_file_of_managed_airflow_resolves(text: str, wheel: Path) -> None:
    named = re.search(r"constraints-([\d.]+)/constraints-([\d.]+)\.txt", text)
    # Cloud Composer names none: its environment may have any of them.
    wanted = [(named[1], named[2])] if named else [(name, each.pythons[0]) for name, each in RELEASES.items()]
    lines = [line for line in text.splitlines() if not line.startswith("--constraint")]
    required = "\n".join(
        re.sub(r"airflow-provider-segmind(\[.*\])", lambda own: ours(own[1], wheel), line) for line in lines
    )

    for airflow, python in wanted:
        done = resolve(RELEASES[airflow], python, f"apache-airflow=={airflow}\n{required}")

        assert done.returncode == 0, (airflow, done.stderr)
        pinned = pins(RELEASES[airflow].constraints.read_text())
        assert {name for name, version in pins(done.stdout).items() if pinned.get(name) != version} == set(), airflow


@pytest.mark.parametrize(
    "path", sorted(Path(RELEASES["2.11.0"].constraints).parent.glob("*-*.txt")), ids=lambda p: p.name
)
def test_pins_are_only_names_and_versions(path: Path) -> None:
    lines = path.read_text().splitlines()

    assert [line for line in lines if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.+]*", line)] == []
    assert len({line.partition("==")[0] for line in lines}) == len(lines)


@pytest.mark.parametrize("version", VERSIONS, ids=[version.name for version in VERSIONS])
def test_test_requirements_change_no_pin(version: Version) -> None:
    assert not pins(version.tools.read_text()).keys() & pins(version.constraints.read_text()).keys()


def test_the_lowest_pins_are_the_lower_bounds() -> None:
    lowest = next(version for version in VERSIONS if version.lowest)
    pinned = pins(lowest.constraints.read_text())
    bounds = {each.name: str(each.specifier).removeprefix(">=") for each in map(Requirement, requirements(lowest))}

    assert {
        name: Requirement(f"{name}=={pinned[name]}").specifier.contains(bound) for name, bound in bounds.items()
    } == (dict.fromkeys(bounds, True))


def test_airflows_compatibility_provider_is_not_required() -> None:
    # Every release pins its newest version on that day; the names that the package needs came later.
    assert "apache-airflow-providers-common-compat" not in {
        Requirement(each).name for each in requirements(VERSIONS[-1])
    }
