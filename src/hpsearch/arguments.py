"""Parser of the command line: verbs and options, read by argparse, and Hydra's overrides."""

import argparse
from pathlib import Path
from typing import NoReturn

from hpsearch import __version__, completion
from hpsearch.config.shipped import ADDRESSES, groups, options, shipped_conf
from hpsearch.errors import RequestError

EXIT_CODES = """\
exit codes:
  0    done; also: nothing left to do
  1    fsck found a fault that it did not repair; a reproduced trial has other metrics
  2    the request is wrong (settings, data, model, memory); nothing was started
  3    there is no model: the budget ended first, or all trials or runs failed
  4    promotion refused by its gate
  5    a component is out of reach (database, tracking server, Ray), or the disk is full
  130  interrupted; the same command goes on from there"""

HELP = {
    "sweep": "search for the best model within the budget, or go on where the search stopped",
    "finish": "end a study with the trials that it has: confirm the best, train the final model, score test",
    "train": "one tracked fine-tune with the hyperparameters under train",
    "report": "write the study's report.html again and print its path",
    "promote": "register the study's winner and make it champion, if it passes the gate",
    "rollback": "make the previous champion champion again",
    "history": "print which version was champion when, and why",
    "reproduce": "train a tracked trial again from what its run recorded, and say whether its metrics are equal",
    "fsck": "see whether state folder, study database and MLflow agree; --repair repairs what it can",
    "predict": "label the texts of a file with the champion",
    "serve": "answer requests on this machine with the champion",
    "ui": "show runs and models in MLflow's pages on this machine",
    "status": "say where studies stand: phase, trials, best so far, the end by the clock",
    "stop": "have a running study save and end, as Ctrl-C does",
    "skip": "end a trial of a running study, and go on without it",
    "try": "have a running study try a point next",
    "extend": "give a study more hours; it plans again at once",
    "config": "print the settings as composed and run nothing",
}


PORTS = {"ui": 5000, "serve": 5001, "report": 5002}
NAMED_OR_SETTINGS = ("finish", "report", "promote", "rollback", "history", "predict", "serve")
"""Verbs that take the name of a study, or settings as `sweep` does."""
COLUMN = "task.columns."  # followed by an input role; names the role's column in the file of `predict`
# Verbs for one study, with their further words. Without a name it is the only running study, or the only one.
OF_A_STUDY = {
    "status": "[STUDY]",
    "stop": "[STUDY]",
    "skip": "[STUDY] TRIAL",
    "try": "[STUDY] learning_rate=3e-5 ...",
    "extend": "[STUDY] --budget 2h",
    "finish": "[STUDY | setting=value ...]",
    "report": "[STUDY | setting=value ...]",
    "promote": "[STUDY | setting=value ...] [promotion=...]",
    "rollback": "[STUDY | setting=value ...]",
    "history": "[STUDY | setting=value ...]",
    "predict": "[STUDY [task.columns.text=NAME] | setting=value ...] --input FILE --output FILE",
    "serve": "[STUDY | setting=value ...]",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message} (`{self.prog} --help` explains)")


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the verb with its options, and the Hydra overrides, which may stand before, between and after options."""
    for word in argv:
        check_text("the command line", word)
    parser = make_parser()
    completion.answer(parser)
    args, rest = parser.parse_known_args(argv)
    if unknown := [word for word in rest if word.startswith("-")]:
        parser.error(f"{args.verb} has no option {unknown[0]}")
    words = [*args.overrides, *rest]
    if args.verb == "reproduce":
        args.run = next((word for word in words if word.isalnum()), None)
        words = [word for word in words if word != args.run]
    if args.verb == "skip":
        number = next((word for word in reversed(words) if word.isdecimal()), None)
        args.trial = int(number) if number is not None else None
        words = [word for word in words if word != number]
    if args.verb in OF_A_STUDY:
        words = _study(args, words)
    args.given = [*words, *([f"--config-dir={args.config_dir}"] if args.config_dir else [])]
    return args, words


def _study(args: argparse.Namespace, words: list[str]) -> list[str]:
    """Take the name of the study from the words, and return the settings that are left.

    `args.own` becomes whether the command works with the study's own settings: it does unless further settings are
    given. Raises RequestError.
    """
    names = [word.removeprefix("study=") for word in words if "=" not in word or word.startswith("study=")]
    others = [word for word in words if "=" in word and not word.startswith("study=")]
    if len(set(names)) > 1:
        raise RequestError(f"{args.verb} is for one study, not for {' and '.join(names)}")
    args.study, args.own = names[0] if names else None, True
    if args.verb == "try":
        args.point = others
        return []
    args.columns = {}
    if args.verb == "predict" and names:  # the file need not have the columns of the study's own files
        columns = [word for word in others if word.startswith(COLUMN)]
        others = [word for word in others if word not in columns]
        args.columns = dict(word.removeprefix(COLUMN).split("=", 1) for word in columns)
    beside = (*ADDRESSES, "promotion") if args.verb == "promote" else ADDRESSES
    settings = [word for word in others if not word.startswith(beside)]
    if args.verb in NAMED_OR_SETTINGS and names and settings and not any(word.startswith("task=") for word in settings):
        raise RequestError(
            f"{settings[0]}: study {names[0]} has settings of its own; leave this out, or name the task too: task=..."
        )
    if args.verb in NAMED_OR_SETTINGS and settings and all("=" in word for word in words):
        args.study, args.own = None, False  # all of them together name the study
        return words
    if settings:
        raise RequestError(
            f"{settings[0]}: {args.verb} takes the name of a study and no such setting (`hpsearch {args.verb} --help`)"
        )
    return others


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line, except Hydra's overrides."""
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
        words = sub.add_argument(
            "overrides", nargs="*", metavar="setting=value", help="a choice (task=imdb), any setting"
        )
        words.completer = completion.of_study if verb in OF_A_STUDY else completion.of_choice  # type: ignore[attr-defined]
        sub.add_argument("--config-dir", type=Path, metavar="DIR", help="your own folder of configurations")
        if verb in PORTS:
            sub.add_argument(
                "--port", type=_port, default=PORTS[verb], help="port on this machine; default: %(default)s"
            )
        if verb == "report":
            sub.add_argument(
                "--serve", action="store_true", help="show it on this machine, renewed while the study runs"
            )
        if verb in ("sweep", "finish", "train"):
            sub.add_argument("--force", action="store_true", help="go on although code or libraries have changed")
        if verb == "promote":
            sub.add_argument("--force", metavar="REASON", help="promote whatever the gate says; the reason is recorded")
            sub.add_argument("--dry-run", action="store_true", help="say what the gate says and change nothing")
            sub.add_argument("--floor", action="store_true", help="take the best simple model in place of the winner")
        if verb == "fsck":
            sub.add_argument("--repair", action="store_true", help="repair what can be repaired")
        if verb in OF_A_STUDY:
            sub.usage = f"hpsearch {verb} {OF_A_STUDY[verb]}"
        if verb == "extend":
            sub.add_argument("--budget", metavar="TIME", help="hours in all, as 90s, 15m, 2h")
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


def check_text(setting: str, value: str) -> None:
    """Raise RequestError if a value cannot be printed and stored because it is not UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:  # for example a file name from another system or a damaged archive
        raise RequestError(f"{setting}: {value!r} is not UTF-8; rename it") from None
