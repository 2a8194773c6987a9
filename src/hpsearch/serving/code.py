"""What a served script needs: files of hpsearch, found by walking its imports, and libraries."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
REQUIREMENTS = ("mlflow", "torch", "transformers", "safetensors", "numpy", "pandas")  # all that what is sent imports


def needed(script: Path) -> list[Path]:
    """Files of hpsearch that running `script` runs, with the `__init__.py` of their packages; the script is none.

    Paths are relative to the package, sorted. Imports in functions count, too.
    """
    found: set[Path] = set()
    todo = [script]
    while todo:
        for path in _imported(todo.pop()):
            for file in (*(parent / "__init__.py" for parent in path.parents if parent != Path()), path):
                if file not in found:
                    found.add(file)
                    todo.append(PACKAGE / file)
    return sorted({*found, Path("__init__.py")})


def _imported(file: Path) -> set[Path]:
    """Modules of hpsearch that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    inside = {Path(*name.split(".")[1:]) for name in names if name.startswith(f"{PACKAGE.name}.")}
    files = {path.with_suffix(".py") for path in inside} | {path / "__init__.py" for path in inside}
    return {path for path in files if (PACKAGE / path).is_file()}
