"""The worker half knows no Optuna, MLflow and Hydra, and every package that is imported is declared."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import hpsearch
from hpsearch.serving import packaging
from hpsearch.state import identity

PACKAGE = Path(hpsearch.__file__).parent
ROOT = PACKAGE.parents[1]
WORKER_HALF = (
    *("tasks", "kinds", "classification", "question_answering", "squad", "windows", "tokens", "text", "examples"),
    *("models", "data", "reading", "checkpoints", "training", "trial", "worker", "inference"),
)
COORDINATORS_ONLY = {"optuna", "mlflow", "hydra"}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))


def statements(module: str, top_level: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements; at top level: those that run on import, so neither in functions nor for type checkers only."""
    todo: list[ast.AST] = [ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif not (top_level and skipped(node)):
            todo += ast.iter_child_nodes(node)


def skipped(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def imported(module: str, top_level: bool = True) -> set[str]:
    """Dotted names of the modules that `module` imports."""
    names: set[str] = set()
    for node in statements(module, top_level):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            assert not node.level, f"{module} has a relative import, which this test does not follow"
            assert node.module
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def walk(module: str) -> dict[str, set[str]]:
    """Every module of ours that importing `module` runs, and what each imports."""
    found: dict[str, set[str]] = {}
    todo = [module]
    while todo:
        here = todo.pop()
        if here not in found:
            found[here] = imported(here)
            inside = {name.split(".")[1] for name in found[here] if name.startswith("hpsearch.")}
            todo += sorted(inside & set(MODULES))
    return found


def closure(module: str) -> dict[str, str]:
    """Every top-level package that importing `module` brings in, and the module of ours that imports it."""
    return {
        name.partition(".")[0]: here
        for here, names in walk(module).items()
        for name in names
        if not name.startswith("hpsearch")
    }


def test_modules_are_found() -> None:
    assert len(MODULES) >= 20
    assert set(WORKER_HALF) <= set(MODULES)


@pytest.mark.parametrize("module", WORKER_HALF)
def test_the_worker_half_knows_no_optuna_mlflow_or_hydra(module: str) -> None:
    brought_in = {package: by for package, by in closure(module).items() if package in COORDINATORS_ONLY}
    assert not brought_in
    assert not {name.partition(".")[0] for name in imported(module, top_level=False)} & COORDINATORS_ONLY


def test_a_study_knows_all_the_code_of_its_trials() -> None:
    assert set(identity.MODULES) == walk("worker").keys()


def test_the_walk_finds_what_is_there() -> None:
    assert "hydra" in closure("cli")
    assert closure("trial")["safetensors"] == "models"  # two steps away


def test_the_command_line_answers_before_anything_slow_is_imported() -> None:
    assert not closure("cli").keys() & {
        "torch",
        "transformers",
        "optuna",
        "mlflow",
        "datasets",
        "sklearn",
        "matplotlib",
    }


@pytest.mark.parametrize("script", sorted({product.script.stem for product in packaging.PRODUCTS.values()}))
def test_a_served_model_imports_only_what_is_sent_along(script: str) -> None:
    ours = walk(script).keys() - {script}
    assert {"inference", "errors"} <= ours
    assert {f"{module}.py" for module in ours} <= set(packaging.CODE)
    foreign = {normal(package) for package in closure(script)} - set(sys.stdlib_module_names)
    assert foreign <= set(packaging.REQUIREMENTS)


def test_nothing_is_sent_along_in_vain() -> None:
    needed = {module for product in packaging.PRODUCTS.values() for module in walk(product.script.stem)}
    assert set(packaging.CODE) - {"__init__.py"} <= {f"{module}.py" for module in needed}


def test_every_imported_package_is_declared() -> None:
    declared = set()
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]:
        declared.add(normal(re.split(r"[<>=!~\[; ]", line)[0]))
    used = {name.partition(".")[0] for module in MODULES for name in imported(module, top_level=False)}
    distributions = packages_distributions()
    foreign = used - set(sys.stdlib_module_names) - {"hpsearch"}
    assert len(foreign) >= 10
    undeclared = {name for name in foreign if not {normal(d) for d in distributions.get(name, [])} & declared}
    assert not undeclared


def test_pins_cover_what_is_declared() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert len(pins) > 100
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", version) for version in pins.values())
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]:
        assert normal(re.split(r"[<>=!~\[; ]", line)[0]) in pins


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()
