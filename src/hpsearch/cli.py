"""The command line: it runs the verbs.

`hpsearch VERB [options] [setting=value ...]`: argparse reads the verb and its options. All other words are Hydra
overrides. A wrong request ends here or in `loading.load`, before slow imports.
"""

import argparse
import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpsearch import arguments
from hpsearch.config.shipped import as_typed
from hpsearch.errors import HpsearchError, OutOfReachError, RequestError, redact

if TYPE_CHECKING:
    from hpsearch.config.settings import Settings

STARTED = time.monotonic()  # later imports count as part of the hours


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code. Messages for the user go to stderr."""
    try:
        args, overrides = arguments.parse(sys.argv[1:] if argv is None else argv)
        from hpsearch.config import loading  # not above: --help and --version need none of it
        from hpsearch.config.composition import compose

        config = compose(overrides, args.config_dir)
        checked = loading.load(config)
        if args.verb == "config":
            from omegaconf import OmegaConf

            print(redact(OmegaConf.to_yaml(config, resolve=True)), end="")
        else:
            RUN[args.verb](checked, home(), args)
    except HpsearchError as error:
        print(f"hpsearch: error: {as_typed(redact(str(error)))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and error.filename:
            print(
                f"hpsearch: error: {error.filename}: {error.strerror}; let it be read and written, or set "
                "HPSEARCH_HOME to another folder",
                file=sys.stderr,
            )
            return RequestError.exit_code
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(
            f"hpsearch: error: the disk is full{where}; free some of it and give the same command: it goes on from "
            "what is saved",
            file=sys.stderr,
        )
        return OutOfReachError.exit_code
    except KeyboardInterrupt:
        print("hpsearch: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def home() -> Path:
    """Return the absolute path of the state folder: $HPSEARCH_HOME, or runs/ in the working directory.

    Raises:
        RequestError: The folder cannot be written to.
    """
    folder = Path(os.path.expanduser(os.environ.get("HPSEARCH_HOME") or "runs")).absolute()
    arguments.check_text("HPSEARCH_HOME", str(folder))
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # for example a name that is too long, or a folder on the way that cannot be read
        raise RequestError(f"HPSEARCH_HOME={folder}: {error.strerror}; set it to another folder") from None
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(
            f"HPSEARCH_HOME: {there} is not a folder that can be written to; set it to one, where runs are to be kept"
        )
    return folder


# --- verbs -----------------------------------------------------------------------------------------------------------
# Each verb imports its own modules, because these import torch, Optuna or MLflow. So a wrong request fails at once.


def check_places(checked: "Settings") -> None:
    """Raise RequestError if the files, the model folder or the study database of a search are missing or wrong."""
    from hpsearch.data.reading import check_files
    from hpsearch.training.folders import local_folder

    check_files(checked.task)
    local_folder(checked.model)
    if checked.storage.uri is not None:
        from hpsearch.state import addresses

        addresses.check_storage(checked.storage.uri)


def _begin() -> None:
    """Print that the request is understood, because the next imports take seconds."""
    print(f"{time.strftime('%H:%M:%S')}  loading torch, Optuna and MLflow", flush=True)


def _sweep(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    given = args.given
    if args.verb == "finish":
        from hpsearch import steering
        from hpsearch.state.folder import StudyFolder
        from hpsearch.state.locks import holder

        folder = steering.chosen(home, args.study) if args.own else StudyFolder.of(home, checked.study)
        if holder(folder) is not None:
            print(steering.finish(folder))
            return
        if args.own:
            checked, given = steering.own_settings(folder, checked), steering.given_to(folder)
    check_places(checked)
    _begin()
    from hpsearch.coordinator.sweep import run_sweep

    run_sweep(checked, home, args.force, given, STARTED, finishing=args.verb == "finish")


def _train(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    check_places(checked)
    _begin()
    from hpsearch.coordinator.sweep import run_train

    run_train(checked, home, args.force, args.given, STARTED)


def _of_study(checked: "Settings", home: Path, args: argparse.Namespace) -> "Settings":
    """Return the settings of the study that the command names, else those that it was given."""
    if not args.own:
        return checked
    from hpsearch import steering

    own = steering.own_settings(steering.chosen(home, args.study), checked)
    asked = any(word.startswith("promotion") for word in args.given)
    return own.model_copy(update={"promotion": checked.promotion}) if asked else own


def _report(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    checked = _of_study(checked, home, args)
    if args.serve:
        from hpsearch.live import serve

        serve(home, checked.study, args.port)
        return
    from hpsearch.coordinator.results import rebuild_report

    print(rebuild_report(checked, home))


def _promote(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    checked = _of_study(checked, home, args)
    from hpsearch.registry.finished import finished

    finished(checked, home)
    from hpsearch.registry.promotion import promote

    print(promote(checked, home, args.force, args.dry_run, args.floor))


def _rollback(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    checked = _of_study(checked, home, args)
    from hpsearch.registry.champions import rollback

    print(rollback(checked, home))


def _history(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    checked = _of_study(checked, home, args)
    from rich.console import Console

    from hpsearch.registry.champions import history

    Console().print(history(checked, home))


def _reproduce(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    if args.run is None:
        raise RequestError("reproduce needs the id of a trial's MLflow run: hpsearch reproduce RUN")
    from hpsearch.reproduce import reproduce

    print(reproduce(checked, home, args.run))


def _fsck(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    from hpsearch.fsck import fsck

    print(fsck(checked, home, args.repair))


def _predict(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    checked = _of_study(checked, home, args)
    from hpsearch.serving.appending import check_paths

    check_paths(args.input, args.output)
    from hpsearch.registry.champions import champion_uri
    from hpsearch.tracking.runs import Tracking

    Tracking(checked, home)  # from here on, runs:/ and models:/ refer to its store
    uri = args.model or champion_uri(checked, home)
    from hpsearch.serving.packaging import predict_file
    from hpsearch.tasks.kinds import KINDS

    task, kind = checked.task, KINDS[checked.task.kind]
    kind.check_task(task)
    if unknown := args.columns.keys() - set(kind.inputs):
        raise RequestError(
            f"{arguments.COLUMN}{min(unknown)}: the model reads {' and '.join(kind.inputs)}; name the columns of these"
        )
    task = task.model_copy(update={"columns": task.columns | args.columns})
    rows = predict_file(uri, args.input, args.output, task.kind, kind.asked(task), task.quoting)
    print(f"{rows} rows predicted in {args.output}")


def _serve(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    checked = _of_study(checked, home, args)
    from hpsearch.registry.champions import champion_uri

    uri = champion_uri(checked, home)
    from hpsearch.serving.packaging import serve

    serve(uri, args.port, checked.task.kind)


def _ui(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    from hpsearch.tracking.ui import ui

    ui(checked, home, args.port)


def _status(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    from hpsearch.status import status

    status(home, args.study, args.json, args.watch)


def _stop(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    from hpsearch.steering import stop

    print(stop(home, args.study))


def _skip(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    if args.trial is None:
        raise RequestError(
            "skip needs the number of a trial: hpsearch skip [STUDY] TRIAL; `hpsearch status` lists them"
        )
    from hpsearch.steering import skip

    print(skip(home, args.study, args.trial))


def _try(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    if not args.point:
        raise RequestError("try needs values of what is searched: hpsearch try [STUDY] learning_rate=3e-5 ...")
    from hpsearch.steering import try_point

    print(try_point(home, args.study, args.point))


def _extend(checked: "Settings", home: Path, args: argparse.Namespace) -> None:
    if args.budget is None:
        raise RequestError("extend needs the hours in all: hpsearch extend [STUDY] --budget 2h")
    from hpsearch.steering import extend

    print(extend(home, args.study, args.budget))


RUN: dict[str, Callable[["Settings", Path, argparse.Namespace], None]] = {
    "sweep": _sweep,
    "finish": _sweep,
    "train": _train,
    "report": _report,
    "promote": _promote,
    "rollback": _rollback,
    "history": _history,
    "reproduce": _reproduce,
    "fsck": _fsck,
    "predict": _predict,
    "serve": _serve,
    "ui": _ui,
    "status": _status,
    "stop": _stop,
    "skip": _skip,
    "try": _try,
    "extend": _extend,
}
