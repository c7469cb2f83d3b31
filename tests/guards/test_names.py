"""A public name means one thing in the whole package."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

from tests.guards.test_architecture import MODULES, PACKAGE

MOST_SHARED_NAMES = 5
"""Public names that more than one module may define, such as a module's logger and its type variables."""


def public_names(body: list[ast.stmt]) -> Iterator[str]:
    """Yield what a module defines: functions, classes, constants, type aliases and type variables."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(node, ast.If | ast.Try):
            yield from public_names(node.body + node.orelse)
            for handler in getattr(node, "handlers", ()):
                yield from public_names(handler.body)


def test_at_most_five_public_names_are_defined_in_more_than_one_module() -> None:
    defined = defaultdict(set)
    for module, path in MODULES.items():
        if path.name == "__init__.py" or module.startswith(f"{PACKAGE}.emulator"):
            continue
        for name in public_names(ast.parse(path.read_text()).body):
            if not name.startswith("_"):
                defined[name].add(module)

    shared = {name: sorted(modules) for name, modules in defined.items() if len(modules) > 1}
    assert len(shared) <= MOST_SHARED_NAMES, shared
