"""The tree keeps its own rules: imports point down, rooms stay small, help does not load torch."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "lungfast").rglob("*.py"))


def functions_of(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def n_lines(function: ast.FunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


@pytest.mark.process
def test_imports_point_down_only() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports; import sys; sys.exit(lint_imports('setup.cfg'))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.process
def test_help_imports_neither_torch_nor_monai() -> None:
    code = (
        "import sys; from lungfast.commands import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'numba', 'zarr', 'segment_anything', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "embed" in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_a_small_room_that_says_what_it_is(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text)), "a module docstring says what comes in, what goes out, why"
    too_long = [function.name for function in functions_of(path) if n_lines(function) > 60]
    assert not too_long


def test_functions_are_short() -> None:
    lengths = [n_lines(function) for path in SOURCES for function in functions_of(path)]
    assert statistics.median(lengths) <= 12


def test_functions_take_at_most_seven_arguments_and_booleans_by_name() -> None:
    for path in SOURCES:
        for function in functions_of(path):
            positional = [
                a for a in function.args.posonlyargs + function.args.args if a.arg not in {"self", "cls"}
            ]
            everything = positional + function.args.kwonlyargs
            if "commands" not in path.parts:
                assert len(everything) <= 7, f"{path.name}: {function.name}"
            booleans = [a.arg for a in positional if a.annotation and ast.unparse(a.annotation) == "bool"]
            assert not booleans, f"{path.name}: {function.name} takes {booleans} by position"


def test_no_module_asserts_on_input_or_prints() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            assert not isinstance(node, ast.Assert), f"{path}:{node.lineno}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path}:{node.lineno}"
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{path}:{node.lineno}: a bare except"
