"""What Ray brings to a node before a worker starts there: variables, and where asked for, code and libraries."""

import importlib.metadata
import os
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from hpsearch.state.identity import LIBRARIES, PACKAGE

PASSED_ON = ("HF_HUB_OFFLINE", "HF_HOME")  # of the environment; no secret is among these
CODE = "PYTHONPATH"  # passed on, too, where nodes have the code


Environment = Literal["none", "package"]  # see cluster.environment


def of_job(environment: Environment) -> dict[str, Any]:
    """Return what Ray brings to the nodes of a command, as Ray's `runtime_env`."""
    return {"py_modules": [str(PACKAGE)], "pip": pinned()} if environment == "package" else {}


def of_worker(environment: Environment) -> dict[str, Any]:
    """Return what a worker has besides."""
    names = (*PASSED_ON, CODE) if environment == "none" else PASSED_ON
    return {"env_vars": {name: os.environ[name] for name in names if name in os.environ}}


def pinned() -> list[str]:
    """Return hpsearch's requirements, and what a node's results depend on, each in the version installed here."""
    wanted = map(Requirement, importlib.metadata.requires("hpsearch") or ())
    asked = [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    needed = {canonicalize_name(name): None for name in (*asked, *LIBRARIES)}
    # An index has no local versions such as 2.13.0+cpu. Which build a node needs is its own affair.
    return [f"{name}=={Version(importlib.metadata.version(name)).public}" for name in needed]


def not_set_up(error: Exception, environment: Environment) -> str:
    """Return a message for people about an environment that a node could not make."""
    reason = (str(error).strip().splitlines() or [""])[-1].strip()
    remedy = (
        "; nodes need virtualenv (pip install virtualenv) and a package index, or hpsearch itself with "
        "cluster.environment=none"
    )
    return f"a node could not make the environment of a worker: {reason}" + (remedy if environment == "package" else "")
