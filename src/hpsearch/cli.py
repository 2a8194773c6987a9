"""The command line: what to do.

`hpsearch VERB [options] [setting=value ...]`: the verb and its options are argparse's, everything else is a Hydra
override. A request that is wrong ends here or in `loading.load`, before anything is imported that takes time.
"""

import argparse
import errno
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from omegaconf import OmegaConf

from hpsearch import __version__
from hpsearch.config import loading
from hpsearch.config.composition import compose, groups, options, shipped_conf
from hpsearch.config.settings import Settings
from hpsearch.data.reading import check_files
from hpsearch.errors import HpsearchError, OutOfReachError, RequestError, redact
from hpsearch.training.folders import local_folder

STARTED = time.monotonic()  # imports that follow are part of the hours
EXIT_CODES = """\
exit codes:
  0    done; also: nothing left to do
  1    fsck found what it did not mend; a trial that was reproduced came to something else
  2    the request is wrong (settings, data, model, memory); nothing was started
  3    the budget ended before any trial was complete
  4    promotion refused by its gate
  5    a component is out of reach (database, tracking server), or the disk is full
  130  interrupted; the same command goes on from there"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; messages for the user go to stderr."""
    try:
        args, overrides = _parse(sys.argv[1:] if argv is None else argv)
        config = compose(overrides, args.config_dir)
        checked = loading.load(config)
        if args.verb == "config":
            print(redact(OmegaConf.to_yaml(config, resolve=True)), end="")
        else:
            RUN[args.verb](checked, home(), args)
    except HpsearchError as error:
        print(f"hpsearch: error: {redact(str(error))}", file=sys.stderr)
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
    """The folder that holds all a run writes: $HPSEARCH_HOME, or runs/ here; absolute. Raises RequestError."""
    folder = Path(os.path.expanduser(os.environ.get("HPSEARCH_HOME") or "runs")).absolute()
    _check_text("HPSEARCH_HOME", str(folder))
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
    except OSError as error:  # its name is too long, a folder on the way can't be looked into
        raise RequestError(f"HPSEARCH_HOME={folder}: {error.strerror}; set it to another folder") from None
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise RequestError(
            f"HPSEARCH_HOME: {there} is not a folder that can be written to; set it to one, where runs are to be kept"
        )
    return folder


def _check_text(setting: str, value: str) -> None:
    """See that it can be printed and kept. Raises RequestError."""
    try:
        value.encode()
    except UnicodeEncodeError:  # a name that another system or a damaged archive has left
        raise RequestError(f"{setting}: {value!r} is not UTF-8; rename it") from None


# --- verbs -----------------------------------------------------------------------------------------------------------
# Their modules import torch, Optuna or MLflow, so each verb imports its own: a wrong request is answered at once.


def check_places(checked: Settings) -> None:
    """See that what a search reads is there. Raises RequestError."""
    check_files(checked.task)
    local_folder(checked.model)
    if checked.storage.uri is not None:
        from hpsearch.state import addresses

        addresses.check_storage(checked.storage.uri)


def _begin() -> None:
    """Say that the request is understood: what is imported next takes seconds."""
    print(f"{time.strftime('%H:%M:%S')}  loading torch, Optuna and MLflow", flush=True)


def _sweep(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    check_places(checked)
    _begin()
    from hpsearch.coordinator.sweep import run_sweep

    run_sweep(checked, home, args.force, args.given, STARTED, finishing=args.verb == "finish")


def _train(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    check_places(checked)
    _begin()
    from hpsearch.coordinator.sweep import run_train

    run_train(checked, home, args.force, args.given, STARTED)


def _report(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.coordinator.results import rebuild_report

    print(rebuild_report(checked, home))


def _promote(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.registry.finished import finished

    finished(checked, home)
    from hpsearch.registry.promotion import promote

    print(promote(checked, home, args.force, args.dry_run, args.floor))


def _rollback(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.registry.champions import rollback

    print(rollback(checked, home))


def _history(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from rich.console import Console

    from hpsearch.registry.champions import history

    Console().print(history(checked, home))


def _reproduce(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    if args.run is None:
        raise RequestError("reproduce needs the id of a trial's MLflow run: hpsearch reproduce RUN")
    from hpsearch.reproduce import reproduce

    print(reproduce(checked, home, args.run))


def _fsck(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.fsck import fsck

    print(fsck(checked, home, args.repair))


def _predict(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.serving.appending import check_paths

    check_paths(args.input, args.output)
    from hpsearch.registry.champions import champion_uri
    from hpsearch.tracking.runs import Tracking

    Tracking(checked, home)  # from here on, runs:/ and models:/ are looked up in its store
    uri = args.model or champion_uri(checked, home)
    from hpsearch.serving.packaging import predict_file
    from hpsearch.tasks.kinds import KINDS

    task, kind = checked.task, KINDS[checked.task.kind]
    kind.check_task(task)
    rows = predict_file(uri, args.input, args.output, task.kind, kind.asked(task), task.quoting)
    print(f"{rows} rows predicted in {args.output}")


def _serve(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.registry.champions import champion_uri

    uri = champion_uri(checked, home)
    from hpsearch.serving.packaging import serve

    serve(uri, args.port, checked.task.kind)


def _ui(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.tracking.ui import ui

    ui(checked, home, args.port)


def _status(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.status import status

    status(home, args.study, args.json, args.watch)


def _stop(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    if args.study is None:
        raise RequestError("stop needs the name of a study: hpsearch stop STUDY; `hpsearch status` lists them")
    from hpsearch.status import stop

    print(stop(home, args.study))


RUN: dict[str, Callable[[Settings, Path, argparse.Namespace], None]] = {
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
}

HELP = {
    "sweep": "search for the best model within the budget, or go on where the search stopped",
    "finish": "end a study with what there is: confirm the best, train the final model, score test",
    "train": "one tracked fine-tune with the hyperparameters under train",
    "report": "write the study's report.html anew and print its path",
    "promote": "register the study's winner and make it champion, if it passes the gate",
    "rollback": "make the previous champion champion again",
    "history": "print which version was champion when, and why",
    "reproduce": "train a tracked trial again from what its run recorded, and say whether it comes to the same",
    "fsck": "see whether state folder, study database and MLflow agree; --repair mends what can be mended",
    "predict": "label the texts of a file with the champion",
    "serve": "answer requests on this machine with the champion",
    "ui": "show runs and models in MLflow's pages on this machine",
    "status": "say where studies stand: phase, trials, best so far, the end by the clock",
    "stop": "have a running study save and end, as Ctrl-C does",
    "config": "print the settings as composed and run nothing",
}


OF_A_STUDY = ("status", "stop")  # they take its name, and no settings but where things are


# --- arguments -------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message} (`{self.prog} --help` explains)")


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The verb with its options, and the Hydra overrides, which may stand before, between and after options."""
    for word in argv:
        _check_text("the command line", word)
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    if unknown := [word for word in rest if word.startswith("-")]:
        parser.error(f"{args.verb} has no option {unknown[0]}")
    words = [*args.overrides, *rest]
    if args.verb == "reproduce":
        args.run = next((word for word in words if word.isalnum()), None)
        words = [word for word in words if word != args.run]
    if args.verb in OF_A_STUDY:
        args.study = next((word for word in words if "=" not in word), None)
        words = [word for word in words if word != args.study]
    args.given = [*words, *([f"--config-dir={args.config_dir}"] if args.config_dir else [])]
    return args, words


def make_parser() -> argparse.ArgumentParser:
    """Of the whole command line, but for Hydra's overrides."""
    epilog = f"{_groups_help()}\n\n{EXIT_CODES}"
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(
        prog="hpsearch",
        description="Hyperparameter search for fine-tuning BERT-class models.",
        epilog=f"{epilog}\n\n`hpsearch VERB --help` lists the options of one verb.",
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"hpsearch {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    for verb, text in HELP.items():
        sub = verbs.add_parser(verb, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog)
        sub.formatter_class = raw
        if verb == "reproduce":
            sub.usage = "hpsearch reproduce RUN [setting=value ...], with RUN the id of a trial's MLflow run"
        sub.add_argument("overrides", nargs="*", metavar="setting=value", help="a choice (task=imdb) or any setting")
        sub.add_argument("--config-dir", type=Path, metavar="DIR", help="your own folder of configurations")
        if verb in ("serve", "ui"):
            sub.add_argument("--port", type=_port, default=5001 if verb == "serve" else 5000, help="%(default)s")
        if verb in ("sweep", "finish", "train"):
            sub.add_argument("--force", action="store_true", help="go on although code or libraries have changed")
        if verb == "promote":
            sub.add_argument("--force", metavar="REASON", help="promote whatever the gate says; the reason is recorded")
            sub.add_argument("--dry-run", action="store_true", help="say what the gate says and change nothing")
            sub.add_argument("--floor", action="store_true", help="take the best simple model in place of the winner")
        if verb == "fsck":
            sub.add_argument("--repair", action="store_true", help="mend what can be mended")
        if verb in OF_A_STUDY:
            sub.usage = f"hpsearch {verb} {'[STUDY]' if verb == 'status' else 'STUDY'}"
        if verb == "status":
            sub.add_argument("--watch", action="store_true", help="again every two seconds, until Ctrl-C")
            sub.add_argument("--json", action="store_true", help="for programs")
        if verb == "predict":
            sub.add_argument("--input", type=Path, required=True, metavar="FILE", help="CSV, TSV, JSONL or Parquet")
            sub.add_argument("--output", type=Path, required=True, metavar="FILE", help="its rows, label and score")
            sub.add_argument("--model", metavar="URI", help="an MLflow model; default: the task's champion")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 1 to 65535")
    return int(text)


def _groups_help() -> str:
    lines = [f"  {group + '=':<12}{' '.join(options(group, [shipped_conf()]))}" for group in groups(shipped_conf())]
    return "\n".join(
        [
            "choices:",
            *lines,
            "",
            "settings (`hpsearch config` prints them all):",
            "  train.learning_rate=3e-5 budget.max_trials=20 task.files.train=reviews.csv",
        ]
    )
