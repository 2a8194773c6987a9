"""What a served script needs: files of hpsearch, found through its imports, and libraries."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
REQUIREMENTS = ("mlflow", "torch", "transformers", "safetensors", "numpy", "pandas")  # all that the logged code imports


def needed(script: Path) -> list[Path]:
    """Return the files of hpsearch that `script` imports, directly or not, with the `__init__.py` of their packages.

    The script itself is not among them. Paths are relative to the package and sorted. Imports in functions count too.
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


def libraries(script: Path) -> list[str]:
    """Return the libraries of REQUIREMENTS that `script` needs.

    A model of transformers needs all of them, because transformers loads some itself.
    """
    found = {
        name.partition(".")[0] for file in (script, *map(PACKAGE.joinpath, needed(script))) for name in _names(file)
    }
    return [name for name in REQUIREMENTS if name in found or "transformers" in found]


def _imported(file: Path) -> set[Path]:
    """Return the modules of hpsearch that a file imports."""
    names = _names(file)
    inside = {Path(*name.split(".")[1:]) for name in names if name.startswith(f"{PACKAGE.name}.")}
    files = {path.with_suffix(".py") for path in inside} | {path / "__init__.py" for path in inside}
    return {path for path in files if (PACKAGE / path).is_file()}


def _names(file: Path) -> set[str]:
    """Return the dotted names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names
