"""Imports between packages point one way; workers know no Optuna, MLflow and Hydra; every import is declared."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import hpsearch
from hpsearch.serving import code
from hpsearch.state import identity
from hpsearch.tasks.kinds import KINDS

PACKAGE = Path(hpsearch.__file__).parent
ROOT = PACKAGE.parents[1]
# From top to bottom: a package imports from itself and from those below it. The first and the last have no folder.
VERBS, GROUND = "(verbs)", "(ground)"
ORDER = (
    *(VERBS, "registry", "coordinator", "workers", "report", "tracking", "serving", "decisions", "training", "tasks"),
    *("data", "state", "config", GROUND),
)
AT_GROUND = {"hpsearch", "hpsearch.errors", "hpsearch.formats"}
WORKER_HALF = ("training", "tasks", "data")
COORDINATORS_ONLY = {"optuna", "mlflow", "hydra"}


def name_of(path: Path) -> str:
    """Dotted."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def package_of(module: str) -> str:
    parts = module.split(".")
    if len(parts) > 1 and (PACKAGE / parts[1]).is_dir():
        return parts[1]
    return GROUND if module in AT_GROUND else VERBS


def statements(module: str, top_level: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements; at top level: those that run on import, so neither in functions nor for type checkers only."""
    todo: list[ast.AST] = [ast.parse(FILES[module].read_text(encoding="utf-8"))]
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


def ours(names: set[str]) -> set[str]:
    """Those that are modules of ours; the packages that they are in are left out."""
    return {name for name in names & FILES.keys() if FILES[name].name != "__init__.py" or name == "hpsearch"}


def walk(module: str) -> dict[str, set[str]]:
    """Every module of ours that importing `module` runs, and what each imports."""
    found: dict[str, set[str]] = {}
    todo = [module]
    while todo:
        here = todo.pop()
        if here not in found:
            found[here] = imported(here)
            todo += sorted(ours(found[here]))
    return found


def closure(module: str) -> dict[str, str]:
    """Every top-level package that importing `module` brings in, and the module of ours that imports it."""
    return {
        name.partition(".")[0]: here
        for here, names in walk(module).items()
        for name in names
        if not name.startswith("hpsearch")
    }


def modules_of(package: str) -> list[str]:
    return [module for module, path in FILES.items() if package_of(module) == package and path.name != "__init__.py"]


def test_every_package_has_its_place() -> None:
    assert {package_of(module) for module in FILES} == set(ORDER)
    assert sum(len(modules_of(package)) for package in ORDER) >= 60


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_down(package: str) -> None:
    above = set(ORDER[: ORDER.index(package)])
    upward = {
        f"{module} imports {name}"
        for module in modules_of(package)
        for name in ours(imported(module, top_level=False))
        if package_of(name) in above
    }
    assert not upward, f"package {package} imports from one above it"


def used(module: str, library: str) -> set[str]:
    """Dotted names of what a module takes of a library: `mlflow.pyfunc.load_model`, however it was imported."""
    names, read = set(), []
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == library:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            renamed = [alias.name for alias in node.names if alias.name.startswith(library) and alias.asname]
            assert not renamed, f"{module} renames {renamed}, which this test does not follow"
        elif isinstance(node, ast.Attribute):
            read.append(ast.unparse(node))
    chains = [name for name in read if name.partition(".")[0] == library]
    return names | {name for name in chains if not any(other.startswith(f"{name}.") for other in chains)}


# A model is loaded and run in `serving`, and MLflow's servers start there. All the rest of MLflow is `tracking`'s.
OF_SERVING = {
    "mlflow.artifacts.download_artifacts",
    "mlflow.exceptions.MlflowException",
    "mlflow.get_tracking_uri",
    "mlflow.models.set_model",
    "mlflow.pyfunc.PythonModel",
    "mlflow.pyfunc.load_model",
}


@pytest.mark.parametrize("package", [package for package in ORDER if package != "tracking"])
def test_mlflow_is_one_package(package: str) -> None:
    modules = modules_of(package)
    if package == "serving":
        taken = {f"{module} uses {name}" for module in modules for name in used(module, "mlflow") - OF_SERVING}
        assert not taken, "this much of MLflow is for the package tracking alone"
    else:
        taken = {module for module in modules if "mlflow" in {n.partition(".")[0] for n in imported(module, False)}}
        assert not taken, f"package {package} imports MLflow; ask the package tracking for what it is to do there"


def test_what_is_taken_of_mlflow_is_found() -> None:
    assert "mlflow.MlflowClient" in used("hpsearch.tracking.registered", "mlflow")
    assert "mlflow.entities.Metric" in used("hpsearch.tracking.runs", "mlflow")
    assert "mlflow.pyfunc.load_model" in used("hpsearch.serving.loading", "mlflow")


def test_packages_do_nothing_when_they_are_imported() -> None:
    """What a served model carries are single files, with the `__init__.py` of their packages."""
    for package in set(ORDER) - {VERBS, GROUND}:
        body = ast.parse(FILES[f"hpsearch.{package}"].read_text(encoding="utf-8")).body
        assert [type(node) for node in body] == [ast.Expr], package


@pytest.mark.parametrize("module", [m for package in WORKER_HALF for m in modules_of(package)])
def test_the_worker_half_knows_no_optuna_mlflow_or_hydra(module: str) -> None:
    brought_in = {package: by for package, by in closure(module).items() if package in COORDINATORS_ONLY}
    assert not brought_in
    assert not {name.partition(".")[0] for name in imported(module, top_level=False)} & COORDINATORS_ONLY


# Of what a worker imports, what a study does not compare as code.
NOT_COMPARED = {
    "config": "settings are compared as settings",
    "state": "records carry what was computed, folders name where it is kept",
    GROUND: "errors say what went wrong",
}


def test_a_study_knows_all_the_code_of_its_trials() -> None:
    assert set(identity.PACKAGES) == set(WORKER_HALF)
    walked = walk("hpsearch.training.worker").keys()
    known = {f"hpsearch.{name.replace('/', '.')}" for name in identity.made_by()["code"]}
    assert {package_of(module) for module in walked & known} == set(identity.PACKAGES)
    assert {package_of(module) for module in walked - known} == NOT_COMPARED.keys()


def test_where_workers_run_is_known_to_their_package_alone() -> None:
    inside = {module for module, path in FILES.items() if path.parent.name == "workers"}
    open_to_all = {"hpsearch.workers.interface", "hpsearch.workers.workplaces"}
    assert len(inside - open_to_all) >= 2
    for module in FILES.keys() - inside:
        assert not imported(module, top_level=False) & (inside - open_to_all - {"hpsearch.workers"}), module


@pytest.mark.parametrize("module", [*modules_of("coordinator"), "hpsearch.reproduce"])
def test_the_coordinator_has_no_sockets_and_no_processes(module: str) -> None:
    roots = {name.partition(".")[0] for name in imported(module, top_level=False)}
    assert not roots & {"multiprocessing", "select", "socket", "subprocess"}
    assert "/proc" not in FILES[module].read_text(encoding="utf-8")


@pytest.mark.parametrize("module", ["interface", "workplaces", "local"])
def test_to_have_workers_needs_no_torch(module: str) -> None:
    """Until they are asked what they have: a request that is wrong is refused before."""
    assert "torch" not in closure(f"hpsearch.workers.{module}")


def test_the_walk_finds_what_is_there() -> None:
    assert "hydra" in closure("hpsearch.config.composition")
    assert closure("hpsearch.training.trial")["safetensors"] == "hpsearch.training.models"  # two steps away


SLOW = {"torch", "transformers", "optuna", "mlflow", "datasets", "sklearn", "matplotlib"}


def test_the_command_line_answers_before_anything_slow_is_imported() -> None:
    assert not {"hydra", "omegaconf", "pydantic"} & set(closure("hpsearch.cli")), "help and version need none of it"
    assert not closure("hpsearch.cli").keys() & SLOW


def test_where_studies_stand_is_told_without_slow_imports() -> None:
    assert not closure("hpsearch.status").keys() & (SLOW | {"scipy", "pandas"})


SCRIPTS = sorted({f"hpsearch.serving.{Path(kind.product.script).stem}" for kind in KINDS.values()})
OF_FLOORS = sorted(
    {f"hpsearch.serving.{Path(one.script).stem}" for kind in KINDS.values() for one in kind.floors if one.script}
)


@pytest.mark.parametrize("script", OF_FLOORS)
def test_a_floor_is_served_without_torch(script: str) -> None:
    assert len(OF_FLOORS) == 3
    assert {normal(package) for package in closure(script)} - set(sys.stdlib_module_names) == set(
        code.libraries(FILES[script])
    )
    assert not {"torch", "transformers", "scipy", "sklearn"} & closure(script).keys()


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_model_of_transformers_asks_for_all_that_it_may_load(script: str) -> None:
    assert code.libraries(FILES[script]) == list(code.REQUIREMENTS)
    assert "hpsearch.serving.inference" in walk(script)


@pytest.mark.parametrize("script", [*SCRIPTS, *OF_FLOORS])
def test_what_a_served_model_imports_is_sent_along_and_no_more(script: str) -> None:
    run = walk(script).keys() - {script}
    assert "hpsearch.serving.labelling" in run
    sent = code.needed(FILES[script])
    assert {path for path in sent if path.name != "__init__.py"} == {
        FILES[module].relative_to(PACKAGE) for module in run
    }
    packages = {parent for path in sent for parent in path.parents}
    assert {path.parent for path in sent if path.name == "__init__.py"} == packages
    foreign = {normal(package) for package in closure(script)} - set(sys.stdlib_module_names)
    assert foreign <= set(code.REQUIREMENTS)


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for more in project["optional-dependencies"].values() for line in more)]
    declared = {normal(re.split(r"[<>=!~\[; ]", line)[0]) for line in lines}
    used = {name.partition(".")[0] for module in FILES for name in imported(module, top_level=False)}
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
