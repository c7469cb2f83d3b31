"""No import cycle of any sort: not at module level, in functions, or for type checkers."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.guards.test_architecture import MODULES, PACKAGE, ROOT


def imported_by(module: str, path: Path) -> set[str]:
    """Return the modules of the package that one imports: at its top, in functions, and for type checkers."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in MODULES else str(node.module) for name in names)
    return found & MODULES.keys() - {module, PACKAGE}


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return the modules of one cycle, none when there is no cycle."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph[module]):
            if found := visit(other, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


def test_a_cycle_is_found_wherever_its_imports_are() -> None:
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_are_found_in_functions_and_for_type_checkers(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        f"if TYPE_CHECKING:\n    from {PACKAGE} import defaults\ndef later():\n    import {PACKAGE}.client.client\n"
    )
    assert imported_by(f"{PACKAGE}.module", path) == {f"{PACKAGE}.defaults", f"{PACKAGE}.client.client"}


def test_there_is_no_import_cycle_of_any_sort() -> None:
    assert not cycle_in({module: imported_by(module, path) for module, path in MODULES.items()})


def names_in(body: list[ast.stmt]) -> set[str]:
    """Return the names that a module has at its top, imported ones included."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.If):
            found |= names_in(node.body + node.orelse)
        else:
            found.update(name.id for name in ast.walk(node) if isinstance(name, ast.Name))
    return found


def missing_in(path: Path) -> set[str]:
    """Return what a file imports from tests that is not there. Some folders are only collected by long suites."""
    missing: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not str(node.module).startswith("tests."):
            continue
        place = ROOT.joinpath(*str(node.module).split("."))
        file = place.with_suffix(".py")
        known = (
            names_in(ast.parse(file.read_text()).body) if file.exists() else {one.stem for one in place.glob("*.py")}
        )
        missing.update(f"{node.module}.{alias.name}" for alias in node.names if alias.name not in known)
    return missing


def test_what_tests_import_from_each_other_is_there(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from tests.guards.imports import forbid_airflow, nothing\nfrom tests.guards import gone, imports\n"
    )

    assert missing_in(wrong) == {"tests.guards.imports.nothing", "tests.guards.gone"}
    files = [path for folder in ("tests", "demo", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert {name for path in files for name in missing_in(path)} == set()
