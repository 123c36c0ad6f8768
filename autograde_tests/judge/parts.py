"""What an answer may use of mtlkit, as source text: the named parts, what they need, and nothing else.

A worker has no mtlkit. Each exercise's ``may_use`` says what its own process gets, so an earlier answer never
has the finished part that a later one builds on.
"""

from __future__ import annotations

import ast
import importlib.util
import threading
from collections.abc import Iterable
from functools import cache

_PARSING = threading.Lock()


def parse(source: str) -> ast.Module:
    """``ast.parse``, one thread at a time.

    CPython 3.11 counts the depth of all threads in one place: two at once can stop with a SystemError.
    """
    with _PARSING:
        return ast.parse(source)


@cache
def parts(may_use: tuple[str, ...]) -> dict[str, str]:
    """The source of each module of mtlkit that ``may_use`` (beginnings of dotted names) needs, by name."""
    wanted: dict[str, set[str]] = {}
    for entry in may_use:
        module = entry.rstrip(".")
        while not _is_module(module):
            module = module.rpartition(".")[0]
        names = {n for n in _statements(module) if f"{module}.{n}".startswith(entry)}
        wanted.setdefault(module, set()).update(names)
    sources: dict[str, str] = {}
    todo = list(wanted)
    while todo:
        module = todo.pop()
        before = {name: set(names) for name, names in wanted.items()}
        sources[module] = _pruned(module, wanted)
        todo += [name for name, names in wanted.items() if names != before.get(name)]
    return sources


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


@cache
def _tree(module: str) -> ast.Module:
    return parse(importlib.util.find_spec(module).loader.get_source(module))


def _bound(statement: ast.stmt) -> Iterable[str]:
    """The names that a statement of a module binds."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.split(".")[0] for alias in statement.names]
    return [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def _statements(module: str) -> dict[str, ast.stmt]:
    return {name: statement for statement in _tree(module).body for name in _bound(statement)}


def _pruned(module: str, wanted: dict[str, set[str]]) -> str:
    """The module with the wanted names and what these use; notes in ``wanted`` what they use of mtlkit."""
    statements, keep, todo = _statements(module), set(), list(wanted[module])
    while todo:
        name = todo.pop()
        if name in statements and name not in keep:
            keep.add(name)
            todo += [n.id for n in ast.walk(statements[name]) if isinstance(n, ast.Name)]
    body: list[ast.stmt] = []
    for statement in _tree(module).body:
        names = [name for name in _bound(statement) if name in keep]
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("mtlkit"):
            used = [alias for alias in statement.names if (alias.asname or alias.name) in keep]
            wanted.setdefault(statement.module, set()).update(alias.name for alias in used)
            statement = ast.ImportFrom(statement.module, used, 0)
        if names or (isinstance(statement, ast.ImportFrom) and statement.module == "__future__"):
            body.append(statement)
    return ast.unparse(ast.fix_missing_locations(ast.Module(body, [])))
