"""What a result was made with: versions, and the commit."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

PACKAGES = ("hpsearch", "torch", "transformers", "optuna", "mlflow", "datasets", "numpy", "scikit-learn")
VERSION_TAG, COMMIT_TAG = "hpsearch.version.", "mlflow.source.git.commit"  # the first is followed by a package


def lineage() -> dict[str, str]:
    """Tags: the versions that ran, and the commit where hpsearch runs from a git checkout."""
    tags = {f"{VERSION_TAG}python": platform.python_version()}
    for package in PACKAGES:
        try:
            tags[f"{VERSION_TAG}{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # hpsearch itself, run from its checkout: the commit says more
    folder = Path(__file__).parents[1]
    # An environment may lie inside another project's checkout, whose commit would say nothing: git must know the file.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is not None:
        tags[COMMIT_TAG] = _git(folder, "rev-parse", "HEAD") or "none"
        tags["hpsearch.git.dirty"] = str(bool(_git(folder, "status", "--porcelain"))).lower()
    return tags


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints, None where it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
