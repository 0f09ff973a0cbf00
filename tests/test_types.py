"""Everything public says what it takes and gives; `make types` lets mypy believe or doubt it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "htc_fast"
# Kernels in Triton's language: their arguments are explained, with shapes, where they stand.
SOURCES = [path for path in sorted(PACKAGE.rglob("*.py"))]


def public(tree: ast.Module):
    """Functions of the module and methods of its classes, but for those whose names begin with an underscore."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node, False
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from ((one, True) for one in node.body if isinstance(one, ast.FunctionDef))


def is_kernel(node: ast.FunctionDef) -> bool:
    return any("jit" in ast.unparse(one) for one in node.decorator_list)


def lacking(node: ast.FunctionDef, method: bool) -> list[str]:
    """The arguments, and "returns", that have no type."""
    given = node.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    static = any(ast.unparse(one) == "staticmethod" for one in node.decorator_list)
    found = [one.arg for one in arguments[method and not static :] if one is not None and one.annotation is None]
    return found + ["returns"] * (node.returns is None and node.name != "__init__")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_are_typed(path):
    for node, method in public(ast.parse(path.read_text())):
        if not node.name.startswith("_") or node.name in ("__init__", "__call__"):
            assert is_kernel(node) or not lacking(node, method), f"{path.name}:{node.lineno} {node.name}"


def test_a_missing_type_is_noticed():
    node = ast.parse("def f(a, b: int, *c): ...").body[0]
    assert lacking(node, False) == ["a", "c", "returns"]


def test_the_types_are_shipped():
    assert (PACKAGE / "py.typed").exists()
