"""No import cycle of any sort: not at module level, in functions, or for type checkers."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.guards.test_architecture import MODULES, PACKAGE


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
