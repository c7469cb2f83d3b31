"""``make matrix``: the tests of this directory on every supported version of Airflow, each in its own environment."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from tests.matrix.environments import UV, NoPythonError, build, renew, type_checkers
from tests.matrix.versions import ROOT, VERSIONS, Version

if TYPE_CHECKING:
    from pathlib import Path


def main() -> int:
    """Test the given versions, all by default; return 0 if all passed."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    known = {version.name: version for version in VERSIONS}
    parser.add_argument("versions", nargs="*", metavar="VERSION", help=f"of {', '.join(known)}")
    parser.add_argument("--renew", action="store_true", help="renew the pins instead of testing")
    parser.add_argument("--only", nargs="+", metavar="PATH", help="run these tests instead of all")
    options = parser.parse_args()
    if unknown := set(options.versions) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    chosen = [known[name] for name in options.versions] or list(VERSIONS)
    if options.renew:
        for version in chosen:
            renew(version)
        return 0
    checkers = type_checkers()
    # Half of a run is waiting, so two can share a machine; each has its own Airflow home.
    with ThreadPoolExecutor(max_workers=2) as pool:
        test = partial(_test, only=options.only, checkers=checkers)
        results = dict(zip((version.name for version in chosen), pool.map(test, chosen), strict=True))
    print("\n".join(f"Airflow {name}: {result}" for name, result in results.items()), flush=True)
    return 1 if "failed" in results.values() else 0


def _test(version: Version, *, only: list[str] | None, checkers: Path) -> str:
    started = time.monotonic()
    try:
        interpreter = build(version)
    except NoPythonError as error:
        print(error, flush=True)
        return "failed" if os.environ.get("CI") == "true" else "skipped"
    print(f"=== Airflow {version.name} starts, built in {time.monotonic() - started:.0f} s", flush=True)
    suites = ["tests/matrix", "tests/dags/test_rendering.py", "tests/test_compat.py", "tests/test_type_hints.py"]
    if only:
        suites = only
    elif version.lowest:
        suites += [folder for folder in ("tests/client", "tests/chat", "tests/enrichment") if (ROOT / folder).is_dir()]
    # Older Airflows warn about themselves; warnings are errors where the newest one is tested.
    command = [str(interpreter), "-m", "pytest", "-p", "no:cacheprovider", "-o", "filterwarnings=", *suites]
    environment = {**os.environ, "SEGMIND_MATRIX_AIRFLOW": version.airflow, "SEGMIND_MATRIX_UV": UV}
    environment["SEGMIND_TYPE_CHECKERS"] = str(checkers)
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    # In one piece, so that the lines of two versions are not mixed.
    print(f"=== Airflow {version.name}, after {time.monotonic() - started:.0f} s\n{done.stdout}", flush=True)
    return "failed" if done.returncode else "passed"


if __name__ == "__main__":
    sys.exit(main())
