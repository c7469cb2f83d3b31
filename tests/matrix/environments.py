"""Build the virtual environment of one version of Airflow, and renew its pins."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from tests.matrix.versions import ROOT, TEST_TOOLS, Version

if TYPE_CHECKING:
    from collections.abc import Iterator

UV = str(Path(sys.executable).parent / "uv")
COMPAT = "apache-airflow-providers-common-compat"


class NoPythonError(RuntimeError):
    """No Python on this machine runs this version of Airflow."""


def find_python(version: Version) -> str:
    """Find an interpreter that is on this machine; none is ever downloaded."""
    for wanted in version.pythons:
        for candidate in _candidates(wanted):
            if _python_version(candidate) == wanted:
                return candidate
    raise NoPythonError(f"Airflow {version.airflow} needs Python {' or '.join(version.pythons)}; none was found.")


def build(version: Version) -> Path:
    """Build the environment, unless it is there and made from the same pins, and return its interpreter."""
    interpreter = version.home / "bin" / "python"
    stamp = version.home / ".installed"
    key = hashlib.sha256(version.constraints.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == key:
        return interpreter
    _run([UV, "venv", "--quiet", "--clear", "--python", find_python(version), str(version.home)])
    pins = ["--constraints", str(version.constraints), "--build-constraints", str(version.constraints)]
    airflow = f"apache-airflow=={version.airflow}"
    install = [UV, "pip", "install", "--quiet", "--python", str(interpreter), *pins]
    project = ["--requirements", str(ROOT / "pyproject.toml"), "--all-extras", "--editable", str(ROOT)]
    _run([*install, airflow, *version.beside, *TEST_TOOLS, *project])
    stamp.write_text(key)
    return interpreter


def renew(version: Version) -> None:
    """Write the pins of one version anew."""
    if version.as_of is None:
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = [each for each in project["dependencies"] if not each.startswith("apache-airflow>")]
    if version.lowest:
        ours = [each.replace(">=", "==", 1) for each in ours]
    extras = [each for group in project["optional-dependencies"].values() for each in group]
    wanted = [f"apache-airflow=={version.airflow}", *version.beside, *ours, *extras, *TEST_TOOLS]
    pins: list[str] = []
    for python in sorted(version.pythons):
        # What one Python has pinned holds for the next, so that a package has one version.
        pins = sorted({*pins, *_compile([*wanted, *pins], python=python, as_of=version.as_of)})
    version.constraints.write_text("\n".join(pins) + "\n")


def _compile(wanted: list[str], *, python: str, as_of: str) -> list[str]:
    command = [UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-emit-index-url", "-"]
    # The compatibility layer is written for old Airflows and goes with its newest version.
    command += ["--python-version", python, "--exclude-newer", as_of, "--exclude-newer-package", f"{COMPAT}=false"]
    done = subprocess.run(command, input="\n".join(wanted), text=True, check=True, stdout=subprocess.PIPE)
    return done.stdout.split()


def _candidates(wanted: str) -> Iterator[str]:
    yield sys.executable
    for name in (f"python{wanted}", "python3"):
        if found := shutil.which(name):
            yield found
    # A pyenv shim on PATH refuses versions that are installed but not chosen.
    yield from map(str, sorted(Path.home().glob(f".pyenv/versions/{wanted}.*/bin/python"), reverse=True))
    found = subprocess.run(
        [UV, "python", "find", "--no-python-downloads", wanted], capture_output=True, text=True, check=False
    )
    if found.returncode == 0:
        yield found.stdout.strip()


def _python_version(interpreter: str) -> str | None:
    code = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
    try:
        done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)
