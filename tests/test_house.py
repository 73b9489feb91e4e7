"""The house rules that a machine can see: sizes, public names, light imports."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

import suffuse

SOURCE = Path(suffuse.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FILE = 450
LONGEST_FUNCTION = 70

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))


def module_name(file: Path) -> str:
    """src/suffuse/base/part.py -> suffuse.base.part."""
    parts = file.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def holds_code(tree: ast.Module) -> bool:
    """Whether there is anything but a docstring, and so anything to be public."""
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in tree.body)


@every_file
def test_files_are_short(file: Path) -> None:
    lines = len(file.read_text().splitlines())
    assert lines <= LONGEST_FILE, f"{lines} lines; split it by subject"


@every_file
def test_functions_are_short(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{node.name} has {lines} lines"


@every_file
def test_modules_say_what_they_are(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text())), "a module opens with what it is for"


@every_file
def test_public_names_are_listed_and_exist(file: Path) -> None:
    if file.name == "__main__.py" or not holds_code(ast.parse(file.read_text())) or file.parent == SOURCE:
        return
    module = importlib.import_module(module_name(file))
    public = getattr(module, "__all__", None)
    assert public is not None, "every module lists __all__"
    assert len(set(public)) == len(public), "a name is listed twice"
    missing = [name for name in public if not hasattr(module, name)]
    assert not missing, f"listed but not there: {missing}"
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and isinstance(value, type | FunctionType)
        and name not in public
    ]
    assert not own, f"public by name but not listed: {own}; list them or begin them with _"


def test_no_drawers() -> None:
    names = {file.stem for file in FILES} | {file.parent.name for file in FILES}
    assert not names & {"utils", "util", "misc", "helpers", "common"}, "a file is a technique or one clear subject"


def test_importing_the_package_is_light() -> None:
    # torch takes two seconds: `suffuse --help` must not wait for it.
    code = "import sys, suffuse; print([name for name in ('torch', 'numpy', 'pydantic') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_process_leaves_optional_packages_alone() -> None:
    heavy = ("diffusers", "torchvision", "datasets", "sklearn", "matplotlib", "ot", "tensorboard", "accelerate")
    code = f"import sys, suffuse.process, suffuse.sampling; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
