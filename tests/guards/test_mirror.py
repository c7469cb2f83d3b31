"""`tests/` mirrors the package: `tests/ROOM/test_MODULE.py` or `test_MODULE_ASPECT.py` tests `ROOM/MODULE.py`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from tests.guards.test_architecture import MODULES, PACKAGE, ROOT, shown

TESTS = ROOT / "tests"
WITHOUT_TESTS = {
    "__main__.py": "it only calls the command, and tests/monitoring/test_cli.py runs it",
    "agent_model.py": "its provider is installed only where tests/matrix/test_common_ai.py runs",
    "defaults.py": "it holds values, and tests of who uses them show a wrong one",
}
"""Modules that have no test file of their own, and why."""
OF_A_WHOLE_ROOM = {
    "budget/test_simulation.py": "tasks, tables and stores together, on a simulated clock",
    "emulator/test_docs.py": "the page that describes the emulator",
    "emulator/test_official_sdk.py": "the vendor's client against all routes",
    "operators/test_parse_time.py": "what all operators import together",
}
"""Test files that are named after no module, and why."""
NOT_MIRRORED = {
    "benchmarks": "the benchmarks",
    "browser": "pages in a browser",
    "crash": "processes that are killed",
    "dags": "DAGs that Airflow runs",
    "demo": "the stack that the demo and other tests start",
    "docs": "the documentation",
    "e2e": "a real Airflow",
    "guards": "the rules of this repository",
    "matrix": "other versions of Airflow",
    "packaging": "the distributions",
    "rates": "the rate limit over real time",
}
"""Folders of tests that are about no room of the package."""


def module_of(test: PurePosixPath, modules: Iterable[PurePosixPath]) -> PurePosixPath | None:
    """Return the module with the longest name that a test file is named after; `test_main` is that of `__main__`."""
    name = f"{test.stem.removeprefix('test_')}_"
    named = [
        module
        for module in modules
        if module.parent == test.parent and name.startswith(f"{module.stem.strip('_')}_") and module.stem != "__init__"
    ]
    return max(named, key=lambda module: len(module.stem), default=None)


def package() -> list[PurePosixPath]:
    return [PurePosixPath(shown(path)) for path in MODULES.values() if path.name != "__init__.py"]


def files_of_tests() -> list[PurePosixPath]:
    found = (PurePosixPath(path.relative_to(TESTS).as_posix()) for path in sorted(TESTS.rglob("test_*.py")))
    return [path for path in found if path.parts[0] not in NOT_MIRRORED]


def test_a_test_file_belongs_to_the_module_with_the_longest_name() -> None:
    modules = [PurePosixPath(name) for name in ("a/request.py", "a/request_errors.py", "a/__main__.py", "request.py")]
    expected = {
        "a/test_request.py": "a/request.py",
        "a/test_request_odd_answers.py": "a/request.py",
        "a/test_request_errors_masked.py": "a/request_errors.py",
        "a/test_main.py": "a/__main__.py",
        "a/test_requests.py": None,
        "b/test_request.py": None,
    }

    for test, module in expected.items():
        assert module_of(PurePosixPath(test), modules) == (None if module is None else PurePosixPath(module)), test


def test_every_module_has_a_test_file_of_its_name() -> None:
    modules = package()
    tested = {module_of(test, modules) for test in files_of_tests()}
    untested = {str(module) for module in modules if module not in tested}

    assert len(modules) > 150
    assert sorted(untested - WITHOUT_TESTS.keys()) == [], "write tests/ROOM/test_MODULE.py"
    assert sorted(WITHOUT_TESTS.keys() - untested) == [], "is gone or has tests: remove it from the exceptions"


def test_every_test_file_is_named_after_a_module() -> None:
    modules = package()
    others = {str(test) for test in files_of_tests() if module_of(test, modules) is None}

    assert sorted(others - OF_A_WHOLE_ROOM.keys()) == [], "name it after the module that it tests"
    assert sorted(OF_A_WHOLE_ROOM.keys() - others) == [], "is gone or named after a module: remove it"


def test_a_folder_that_mirrors_no_room_exists_and_is_not_one() -> None:
    for folder in NOT_MIRRORED:
        assert (TESTS / folder).is_dir(), folder
        assert not Path(ROOT, PACKAGE, folder).exists(), folder
