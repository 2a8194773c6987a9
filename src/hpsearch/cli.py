"""The command line: what to do, and all of Hydra.

`hpsearch VERB [options] [setting=value ...]`: the verb and its options are argparse's, everything else is a Hydra
override. A request that is wrong ends here or in `loading.load`, before anything is imported that takes time.
"""

import argparse
import difflib
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hpsearch import __version__, loading
from hpsearch.errors import HpsearchError, OutOfReachError, RequestError, redact
from hpsearch.settings import Settings

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
    """The folder that holds all a run writes: $HPSEARCH_HOME, or runs/ here; absolute."""
    return Path(os.environ.get("HPSEARCH_HOME") or "runs").expanduser().absolute()


# --- verbs -----------------------------------------------------------------------------------------------------------
# Their modules import torch, Optuna or MLflow, so each verb imports its own: a wrong request is answered at once.


def _sweep(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.sweep import run_sweep

    run_sweep(checked, home, args.force)


def _train(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.sweep import run_train

    run_train(checked, home)


def _report(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.sweep import rebuild_report

    print(rebuild_report(checked, home))


def _promote(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.promotion import promote

    print(promote(checked, home, args.force, args.dry_run))


def _rollback(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.promotion import rollback

    print(rollback(checked, home))


def _history(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from rich.console import Console

    from hpsearch.promotion import history

    Console().print(history(checked, home))


def _reproduce(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.reproduce import reproduce

    if args.run is None:
        raise RequestError("reproduce needs the id of a trial's MLflow run: hpsearch reproduce RUN")
    print(reproduce(checked, home, args.run))


def _fsck(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.fsck import fsck

    print(fsck(checked, home, args.repair))


def _predict(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.promotion import champion_uri
    from hpsearch.serving import predict_file
    from hpsearch.tasks import KINDS
    from hpsearch.tracking import Tracking

    Tracking(checked, home)  # from here on, runs:/ and models:/ are looked up in its store
    task, kind = checked.task, KINDS[checked.task.kind]
    kind.check_task(task)
    columns = {role: task.columns[role] for role in kind.inputs}
    rows = predict_file(args.model or champion_uri(checked, home), args.input, args.output, task.kind, columns)
    print(f"{rows} rows predicted in {args.output}")


def _serve(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.promotion import champion_uri
    from hpsearch.serving import serve

    serve(champion_uri(checked, home), args.port, checked.task.kind)


def _ui(checked: Settings, home: Path, args: argparse.Namespace) -> None:
    from hpsearch.tracking import ui

    ui(checked, home, args.port)


RUN: dict[str, Callable[[Settings, Path, argparse.Namespace], None]] = {
    "sweep": _sweep,
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
}

HELP = {
    "sweep": "search for the best model within the budget, or go on where the search stopped",
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
    "config": "print the settings as composed and run nothing",
}


# --- arguments -------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message} (`{self.prog} --help` explains)")


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The verb with its options, and the Hydra overrides, which may stand before, between and after options."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if unknown := [word for word in rest if word.startswith("-")]:
        parser.error(f"{args.verb} has no option {unknown[0]}")
    words = [*args.overrides, *rest]
    if args.verb == "reproduce":
        args.run = next((word for word in words if word.isalnum()), None)
        words = [word for word in words if word != args.run]
    return args, words


def _parser() -> argparse.ArgumentParser:
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
        if verb == "sweep":
            sub.add_argument("--force", action="store_true", help="go on although code or libraries have changed")
        if verb == "promote":
            sub.add_argument("--force", metavar="REASON", help="promote whatever the gate says; the reason is recorded")
            sub.add_argument("--dry-run", action="store_true", help="say what the gate says and change nothing")
        if verb == "fsck":
            sub.add_argument("--repair", action="store_true", help="mend what can be mended")
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


# --- composition -----------------------------------------------------------------------------------------------------


def shipped_conf() -> Path:
    """The shipped configurations: beside this module in an installed wheel, at the top of a checkout."""
    installed = Path(__file__).parent / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "conf"


def groups(folder: Path) -> list[str]:
    """Names of the groups of a folder of configurations."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def options(group: str, folders: Sequence[Path]) -> list[str]:
    """Names that can be chosen for a group."""
    return sorted(
        {
            path.relative_to(folder / group).with_suffix("").as_posix()
            for folder in folders
            for path in (folder / group).rglob("*.yaml")
        }
    )


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> DictConfig:
    """The configuration that the overrides make of the shipped one and of the user's folder.

    Raises:
        RequestError: what is wrong with the overrides or the folder, and the nearest valid names.
    """
    folders = [shipped_conf()]
    if config_dir is not None:
        folders.append(_checked_folder(config_dir.expanduser().absolute()))
    parsed = [_parse_override(text, folders) for text in overrides]
    for override in parsed:
        _check_choice(override, folders)
    try:
        config = _compose(overrides, folders)
    except HydraException as error:
        raise RequestError(_explanation(error, overrides, parsed, folders)) from None
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"a configuration file cannot be read: {_one_line(error)}") from None
    if missing := [path for path, value in _nodes(OmegaConf.to_container(config)) if value == "???"]:
        raise RequestError(f"{', '.join(missing)}: required; add {' '.join(f'{path}=...' for path in missing)}")
    return config


def _compose(overrides: Sequence[str], folders: Sequence[Path]) -> DictConfig:
    shipped, *own = folders
    # A quoted Hydra string: the folder's name may hold commas, brackets and the like.
    search = [f"hydra.searchpath=[{json.dumps(f'file://{folder}', ensure_ascii=False)}]" for folder in own]
    with initialize_config_dir(str(shipped), version_base="1.3"):
        return hydra_compose("config", overrides=[*search, *overrides])


def _checked_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise RequestError(f"--config-dir {folder}: there is no such folder")
    for group in groups(shipped_conf()):
        # Hydra would take the shipped file and say nothing.
        if both := set(options(group, [folder])) & set(options(group, [shipped_conf()])):
            name = min(both)
            raise RequestError(
                f"--config-dir {folder}: {group}/{name}.yaml has the name of a shipped one; give it another, "
                f"for example {group}/my-{name}.yaml"
            )
    return folder


def _parse_override(text: str, folders: Sequence[Path]) -> Override:
    name, equals, value = text.partition("=")
    if not equals and not text.startswith("~"):
        groups_with = [group for group in groups(folders[0]) if text in options(group, folders)]
        hint = f"did you mean {groups_with[0]}={text}?" if groups_with else "quote a value that has spaces: 'name=a b'"
        raise RequestError(f"{text!r} is no setting=value; {hint}")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        if not re.fullmatch(r"[\w@.:/$~+-]+", name):
            raise RequestError(
                f"{text!r}: {name!r} is no name of a setting; write setting=value without spaces"
            ) from None
        quoted = json.dumps(value, ensure_ascii=False)
        remedy = f"quote it for the shell and for hpsearch: '{name}={quoted}'"
        if value[:1] in "[{'\"":
            remedy = "close every quote and bracket"
        elif value.startswith("~"):
            remedy = "write $HOME for ~"
        raise RequestError(f"{name}: cannot read the value {value}; {remedy}") from None
    if not override.key_or_group:
        raise RequestError(f"{text!r} names no setting; write setting=value")
    if override.is_sweep_override():
        raise RequestError(
            f"{text}: takes one value; a list is written {name}=[...], and what a sweep tries stands under search.space"
        )
    if re.match(r"hydra\b", override.key_or_group):
        raise RequestError(f"{text}: Hydra's own settings have no use here; --config-dir adds a folder")
    return override


def _check_choice(override: Override, folders: Sequence[Path]) -> None:
    """Refuse an option that a group does not have; groups of the user's own are added with a plus sign, as in Hydra."""
    group = override.key_or_group
    shipped, *own = folders
    added = group not in groups(shipped)
    if added and not any(group in groups(folder) for folder in own):
        return
    valid = options(group, folders)
    if override.package is not None or override.type != (OverrideType.ADD if added else OverrideType.CHANGE):
        form = f"+{group}=NAME" if added else f"{group}=NAME"
        raise RequestError(f"{override.input_line}: write {form}; {_valid(valid)}")
    if override.value() not in valid:
        shown = override.get_value_element_as_str()
        longer = [name for name in valid if shown and name.startswith(shown)]
        near = longer or difflib.get_close_matches(shown, valid, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise RequestError(f"{group}={shown}: no such {group}; {meant}{_valid(valid)}")


def _explanation(
    error: HydraException, overrides: Sequence[str], parsed: Sequence[Override], folders: Sequence[Path]
) -> str:
    """Which settings do not exist, as Hydra says only of the first and without a suggestion; else its own words."""
    every_group = {group for folder in folders for group in groups(folder)}
    choices = [text for text, o in zip(overrides, parsed, strict=True) if o.key_or_group in every_group]
    try:
        known = [path for path, _ in _nodes(OmegaConf.to_container(_compose(choices, folders)))]
    except HydraException as choice_error:
        return _one_line(choice_error)
    added = [o.key_or_group for o in parsed if o.is_add() or o.is_force_add()]
    changed = [o.key_or_group for o in parsed if o.type == OverrideType.CHANGE]
    faults = [_unknown_setting(key, known) for key in changed if key not in (*known, *added)]
    return "\n".join(faults) or _one_line(error)


def _unknown_setting(key: str, known: Sequence[str]) -> str:
    if elsewhere := _choices_describing(key):
        return f"{key}: no such setting in this composition; it comes with {' or '.join(elsewhere)}"
    parent, _, leaf = key.rpartition(".")
    siblings = {path.rpartition(".")[2]: path for path in known if path.rpartition(".")[0] == parent}
    same_leaf = sorted((path for path in known if path.rpartition(".")[2] == leaf), key=lambda path: path.count("."))
    near = [siblings[name] for name in difflib.get_close_matches(leaf, siblings, n=1)]
    near = near or same_leaf or ([] if siblings else difflib.get_close_matches(key, known, n=1))
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{key}: no such setting; {meant}{_valid(list(siblings.values()))}"


def _choices_describing(key: str) -> list[str]:
    """The shipped choices whose file has a setting that the composition lacks: `task=csv` for `task.files.train`."""
    group, _, inside = key.partition(".")
    files = sorted((shipped_conf() / group).glob("*.yaml"))
    described = {
        path.stem: [name for name, _ in _nodes(OmegaConf.to_container(OmegaConf.load(path)))] for path in files
    }
    return [f"{group}={name}" for name, known in described.items() if inside in known]


def _valid(names: Sequence[str]) -> str:
    return f"valid: {', '.join(names)}" if names else "`hpsearch config` prints what there is"


def _nodes(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every section and setting with its dotted path."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield f"{prefix}{key}", child
            yield from _nodes(child, f"{prefix}{key}.")


def _one_line(error: Exception) -> str:
    """A library's message without line breaks and without Hydra's inner search path."""
    lines = [line.strip() for line in str(error).partition("Config search path:")[0].splitlines()]
    return " ".join(line for line in lines if line)
