"""Build the virtual environment of one version of Airflow, and renew its pins."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from tests.matrix.versions import MANAGED, ROOT, TEST_TOOLS, Version, extras, requirements

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

UV = str(Path(sys.executable).parent / "uv")


class NoPythonError(RuntimeError):
    """No Python on this machine runs this version of Airflow."""


def find_python(version: Version) -> str:
    """Find an interpreter on this machine; none is downloaded."""
    for wanted in version.pythons:
        for candidate in _candidates(wanted):
            if _python_version(candidate) == wanted:
                return candidate
    raise NoPythonError(f"Airflow {version.airflow} needs Python {' or '.join(version.pythons)}; none was found.")


def build(version: Version) -> Path:
    """Build the environment, unless it exists and was built from the same pins; return its interpreter."""
    interpreter = version.home / "bin" / "python"
    stamp = version.home / ".installed"
    read = (version.constraints, version.tools, ROOT / "pyproject.toml")
    key = hashlib.sha256(b"".join(path.read_bytes() for path in read)).hexdigest()
    if stamp.exists() and stamp.read_text() == key:
        return interpreter
    _run([UV, "venv", "--quiet", "--clear", "--python", find_python(version), str(version.home)])
    pins = [f"--{kind}={path}" for kind in ("constraints", "build-constraints") for path in read[:2]]
    airflow = f"apache-airflow=={version.airflow}"
    install = [UV, "pip", "install", "--quiet", "--python", str(interpreter), *pins]
    ours = ["--requirements", str(ROOT / "pyproject.toml"), *(f"--extra={name}" for name in extras(version))]
    ours += ["--editable", str(ROOT)]
    _run([*install, airflow, *version.beside, *TEST_TOOLS, *ours])
    stamp.write_text(key)
    return interpreter


def type_checkers() -> Path:
    """
    Build the environment of the type checkers, unless it exists and was built from the same pins.

    It is one of its own because basedpyright, which is pyright with its Node.js in a wheel, takes 280 MB.
    """
    home = ROOT / ".venvs" / "types"
    stamp, pins = home / ".installed", ROOT / "constraints.txt"
    key = hashlib.sha256(pins.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != key:
        _run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)])
        group = ["--group", f"{ROOT / 'pyproject.toml'}:types", "--constraints", str(pins)]
        _run([UV, "pip", "install", "--quiet", "--python", str(home / "bin" / "python"), *group])
        stamp.write_text(key)
    return home / "bin"


def renew(version: Version) -> None:
    """
    Renew the pins of one version.

    The package's dependencies are resolved by name only, as of the day of the release: its bounds must allow those
    versions. The requirements of the tests are added afterwards and change none of the pins.
    """
    ours = [Requirement(each) for each in requirements(version)]
    if version.lowest:
        required = [str(each).replace(">=", "==", 1) for each in ours]
    else:
        required = [*MANAGED, *(each.name for each in ours)]
    pins = _pins([f"apache-airflow=={version.airflow}", *version.beside, *required], version)
    version.constraints.write_text("\n".join(pins) + "\n")
    with_tools = _pins([*TEST_TOOLS, f"apache-airflow=={version.airflow}"], version, pinned=pins)
    version.tools.write_text("\n".join(sorted(set(with_tools) - set(pins))) + "\n")


def _pins(wanted: list[str], version: Version, pinned: Sequence[str] = ()) -> list[str]:
    pins: set[str] = set()
    with TemporaryDirectory() as folder:
        constraints = Path(folder, "pinned.txt")
        for python in sorted(version.pythons):
            # The pins of one Python apply to the next, so that each package has one version.
            constraints.write_text("\n".join({*pinned, *pins}))
            pins |= set(
                _compile(wanted, "--python-version", python, "--constraints", str(constraints), version=version)
            )
    return sorted(pins)


def _compile(wanted: list[str], *options: str, version: Version) -> list[str]:
    command = [UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-emit-index-url", *options, "-"]
    command += ["--exclude-newer", version.released]
    done = subprocess.run(command, input="\n".join(wanted), text=True, check=True, stdout=subprocess.PIPE)
    return done.stdout.split()


def _candidates(wanted: str) -> Iterator[str]:
    yield sys.executable
    for name in (f"python{wanted}", "python3"):
        if found := shutil.which(name):
            yield found
    # A pyenv shim on PATH refuses versions that are installed but not selected.
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
