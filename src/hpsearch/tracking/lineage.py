"""The versions of Python and packages that a result was made with, and the commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ("hpsearch", "torch", "transformers", "optuna", "mlflow", "datasets", "numpy", "scikit-learn")
VERSION_TAG, COMMIT_TAG = "hpsearch.version.", "mlflow.source.git.commit"  # a package's name follows the first


def lineage() -> dict[str, str]:
    """Return tags with the versions in use, and with the commit if hpsearch runs from a git checkout."""
    tags = {f"{VERSION_TAG}python": platform.python_version()}
    for package in PACKAGES:
        try:
            tags[f"{VERSION_TAG}{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # hpsearch itself, run from its checkout without being installed: the commit says more
    folder = Path(__file__).parents[1]
    # An environment may lie inside another project's checkout, whose commit says nothing: git must track this file.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is not None:
        tags[COMMIT_TAG] = _git(folder, "rev-parse", "HEAD") or "none"
        tags["hpsearch.git.dirty"] = str(bool(_git(folder, "status", "--porcelain"))).lower()
    return tags


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what git prints; None if git fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
