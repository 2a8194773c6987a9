"""Write the reference pages from the code and the shipped YAML files: settings, commands, exit codes, Python, files.

python docs/generate.py            # write it
python docs/generate.py --check    # fail where it is stale
"""

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

import hpsearch
from hpsearch import api, errors
from hpsearch.arguments import EXIT_CODES, make_parser
from hpsearch.config.composition import compose
from hpsearch.config.dimensions import SEARCHABLE
from hpsearch.config.settings import Settings
from hpsearch.config.shipped import groups, options, shipped_conf
from hpsearch.state.folder import StudyFolder, TrialFolder

DOCS = Path(__file__).parent
SCHEMA = Settings.model_json_schema()
NAMES = {"string": "text", "number": "number", "integer": "whole number", "boolean": "true or false", "null": "null"}
SCALARS = ("text", "number", "whole number", "true or false")
NO_VALUE = object()

INTRODUCTION = """\
# Configuration

`docs/generate.py` writes this page from the settings in the code. [The glossary](explanation/glossary.md) explains the
words.

Every setting below can be given on the command line as `path=value`, after choices such as `task=imdb`:

    make sweep TASK=imdb ARGS="budget.max_trials=20 search.space.train.epochs.choices=[2,4]"
    .venv/bin/hpsearch config task=imdb model=gpt2      # prints what would run, and runs nothing

[Hydra](https://hydra.cc) reads the command line. `+path=value` adds an entry, such as a dimension of the space, and
`~path` removes one. Lists are written `[a,b]`, and `${path}` is the value of another setting. A value with spaces or
other special characters needs quotes for the shell and for Hydra: `'task.files.train="a=b.csv"'`.
Values are not converted: a number in quotes is a text and is refused where a number is needed. Unknown settings,
missing ones and values out of range are all named in one message before anything starts.

A folder of your own, added with `--config-dir DIR`, holds further choices in folders named like the groups below.
`mine/task/tickets.yaml` starts from a shipped choice and changes what differs:

    defaults: [csv, _self_]
    name: tickets
    files: {train: /data/tickets.csv}
    columns: {text: subject, label: team}

    make sweep TASK=tickets ARGS="--config-dir mine"

Commands write to the folder that the environment variable `HPSEARCH_HOME` names, else to `runs/` in the working folder.
"""


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them with `--check`; the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    pages = {
        "configuration.md": settings(),
        "reference/commands.md": commands(),
        "reference/exit-codes.md": exit_codes(),
        "reference/python.md": python(),
        "reference/files.md": files(),
    }
    for name, text in pages.items():
        target = DOCS / name
        if not arguments:
            target.write_text(text, encoding="utf-8")
        elif not target.is_file() or target.read_text(encoding="utf-8") != text:
            print(f"{target} is stale; run: python docs/generate.py", file=sys.stderr)
            return 1
    return 0


def commands() -> str:
    """The verbs with their options."""
    lines = ["# Commands", "", "Written by `docs/generate.py` from the command line itself.", ""]
    lines += [
        "`make VERB` runs `hpsearch VERB`, with `TASK`, `MODEL`, `SEARCH`, `BUDGET` and `STUDY` as choices and",
        "",
    ]
    lines[-2] += (
        " `ARGS` as all the rest. `status`, `stop`, `skip` and `try` take `STUDY` and `ARGS` alone, `extend` takes"
    )
    lines[-2] += (
        " `BUDGET` too. With `STUDY` alone, `finish`, `report`, `promote`, `rollback`, `history`, `predict` and"
    )
    lines[-2] += " `serve` use the study's own settings."
    [verbs] = [action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for verb, parser in verbs.choices.items():
        lines += [f"## {verb}", "", str(parser.description), ""]
        if parser.usage is not None:
            lines += [f"    {parser.usage}", ""]
        options = [action for action in parser._actions if action.option_strings and action.dest != "help"]
        rows = ((f"`{_option(action)}`", (action.help or "") % vars(action)) for action in options)
        lines += _table(("option", "meaning"), rows)
    return "\n".join(lines)


def _option(action: argparse.Action) -> str:
    name = action.option_strings[0]
    return name if action.nargs == 0 else f"{name} {action.metavar or action.dest.upper()}"


def exit_codes() -> str:
    """What each means."""
    lines = ["# Exit codes", "", "Written by `docs/generate.py` from `hpsearch --help`.", ""]
    rows = (line.strip().split(maxsplit=1) for line in EXIT_CODES.splitlines()[1:])
    return "\n".join([*lines, *_table(("code", "meaning"), ((code, meaning) for code, meaning in rows))])


def python() -> str:
    """What `import hpsearch` offers."""
    lines = ["# Python", "", "Written by `docs/generate.py` from the docstrings.", ""]
    functions = {"sweep": hpsearch.sweep, "open": hpsearch.open}
    for name, function in functions.items():
        lines += [f"## hpsearch.{name}", "", *_signature(f"hpsearch.{name}", function), *_docstring(function)]
    lines += ["## Study", "", *_docstring(api.Study)]
    for name, member in vars(api.Study).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            lines += [f"### study.{name}", "", *_docstring(member)]
        elif callable(member):
            lines += [f"### study.{name}()", "", *_signature(f"study.{name}", member), *_docstring(member)]
    lines += ["## Errors", "", "`hpsearch.errors` has these exceptions. The message is the command line's.", ""]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    rows = ((f"`{kind.__name__}`", str(getattr(kind, "exit_code", "")), inspect.getdoc(kind) or "") for kind in kinds)
    return "\n".join([*lines, *_table(("exception", "exit code", "meaning"), rows)])


def _signature(name: str, function: Any) -> list[str]:
    """A block with the call, an argument a line; without `self`."""
    given = [one for one in inspect.signature(function).parameters.values() if one.name != "self"]
    if not given:
        return ["```python", f"{name}()", "```", ""]
    shown = []
    for one in given:
        kind = one.annotation if isinstance(one.annotation, str) else inspect.formatannotation(one.annotation)
        default = f" = {one.default!r}" if one.default is not one.empty else ""
        if one.kind is one.KEYWORD_ONLY and "    *," not in shown:
            shown.append("    *,")
        shown.append(f"    {one.name}: {re.sub(r'(collections[.]abc|pathlib|_local)[.]', '', kind)}{default},")
    return ["```python", f"{name}(", *shown, ")", "```", ""]


def _docstring(member: Any) -> list[str]:
    """As Markdown: sections in bold, their entries as a list."""
    lines: list[str] = []
    for line in (inspect.getdoc(member) or "").splitlines():
        entry = re.match(r"    (\w+): (.*)", line)
        if line in ("Args:", "Returns:", "Raises:"):
            lines += [f"**{line}**", ""]
        elif entry is not None:
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            lines.append(line if not line.startswith("    ") else f"  {line.strip()}")
    return [*lines, ""]


def files() -> str:
    """What a state folder holds."""
    lines = ["# Files", "", "Written by `docs/generate.py` from `state/folder.py`.", ""]
    lines += ["Everything that runs write is in the state folder: `runs/`, or `$HPSEARCH_HOME`.", ""]
    shared = (
        ("`mlflow.db`, `artifacts/`", "MLflow's store, unless `tracking.uri` names another."),
        ("`optuna.db`", "Optuna's studies, unless `storage.uri` names another database."),
        ("`cache/data/<digest>/`", "Prepared splits and their tokens, shared by all studies."),
        ("`cache/micro_batch/`, `cache/pace/`", "What fits in memory, and how fast this machine trains."),
        ("`tables/`", "Tables that were given from Python."),
    )
    lines += _table(("place", "what it is"), shared)
    study, trial = StudyFolder(Path("studies/<study>")), TrialFolder(Path("studies/<study>/trials/<number>"))
    lines += ["## A study", "", *_table(("place", "what it is"), _places(study))]
    lines[-1:] = [
        "| `studies/<study>/steering/` | Commands from another terminal, and the replies. |",
        "| `studies/<study>/floors/<name>/` | Model of a simple model, and its answers on validation. |",
        "",
    ]
    lines += ["## A trial", ""]
    lines += ["`trials/` holds the search. `confirmation/` and `final/` hold the runs of these phases, alike.", ""]
    lines += _table(("place", "what it is"), _places(trial))
    lines.append("A trial that can go on has `checkpoint-<step>/` folders, too.")
    return "\n".join([*lines, ""])


def _places(folder: StudyFolder | TrialFolder) -> Iterator[tuple[str, str]]:
    for name, member in vars(type(folder)).items():
        if isinstance(member, property) and isinstance(path := getattr(folder, name), Path):
            yield f"`{path}`", inspect.getdoc(member) or ""


def settings() -> str:
    """Every setting and choice."""
    config = compose([])
    written: Any = OmegaConf.to_container(config)
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    sections = {name: _target(schema) for name, schema in SCHEMA["properties"].items()}
    lines = [INTRODUCTION, "## Choices", ""]
    lines += _table(("choice", "what it is"), _choices())
    lines += ["## Settings", "", "Defaults are those of the choices marked above, together.", ""]
    top = {name: SCHEMA["properties"][name] for name, section in sections.items() if section is None}
    lines += _settings_table(list(_rows(top, "", written, resolved)))
    for name, section in sections.items():
        if section is not None:
            lines += [f"### {name}", "", section["description"], ""]
            lines += _settings_table(list(_rows(section["properties"], f"{name}.", written[name], resolved[name])))
            if name == "search":
                lines += list(_space())
    return "\n".join(lines)


def _choices() -> Iterator[tuple[str, ...]]:
    defaults = OmegaConf.load(shipped_conf() / "config.yaml").defaults
    chosen = {group: name for entry in defaults if entry != "_self_" for group, name in entry.items()}
    for group in groups(shipped_conf()):
        for name in options(group, [shipped_conf()]):
            first = (shipped_conf() / group / f"{name}.yaml").read_text(encoding="utf-8").partition("\n")[0]
            comment = first[1:].strip() if first.startswith("#") else ""
            yield f"`{group}={name}`{' (default)' if chosen.get(group) == name else ''}", comment


def _space() -> Iterator[str]:
    """What stands under search.space."""
    yield "Settings that can be searched, and the type that is sampled:"
    yield ""
    yield ", ".join(f"`{path}` ({kind.__name__})" for path, kind in SEARCHABLE.items()) + "."
    yield ""
    for name, title in (("Interval", "An interval"), ("Choice", "A choice")):
        schema = SCHEMA["$defs"][name]
        yield f"{title} under `search.space`: {schema['description'][0].lower()}{schema['description'][1:]}"
        yield ""
        yield from _settings_table(list(_rows(schema["properties"], "", {}, {})))


def _rows(properties: dict[str, Any], prefix: str, written: Any, resolved: Any) -> Iterator[tuple[str, ...]]:
    for name, schema in properties.items():
        section = _target(schema)
        value = _at(resolved, name)
        if section is None:
            value = schema.get("default", value)
            origin = _at(written, name)
            default = "" if value is NO_VALUE else f"`{_flow(value)}`"
            if isinstance(origin, str) and "${" in origin:
                default += f" from `{origin}`"
            yield f"`{prefix}{name}`", _type(schema), default, schema.get("description", "")
        else:
            nullable = "section or null" if "anyOf" in schema else "section"
            default = "`null`" if value is None else ""
            yield f"`{prefix}{name}`", nullable, default, schema.get("description") or section.get("description", "")
            yield from _rows(section["properties"], f"{prefix}{name}.", _at(written, name), value)


def _at(container: Any, name: str) -> Any:
    return container.get(name, NO_VALUE) if isinstance(container, dict) else NO_VALUE


def _target(schema: dict[str, Any]) -> dict[str, Any] | None:
    """The section that a schema refers to, null aside."""
    parts = [part for part in schema.get("anyOf", [schema]) if "$ref" in part]
    return SCHEMA["$defs"][parts[0]["$ref"].rpartition("/")[2]] if parts else None


def _type(schema: dict[str, Any]) -> str:
    """Type and allowed values in words."""
    if "anyOf" in schema or "oneOf" in schema:
        kinds = [_type(part) for part in schema.get("anyOf") or schema["oneOf"]]
        if {*SCALARS} <= {*kinds}:
            kinds = ["plain value", *(kind for kind in kinds if kind not in SCALARS)]
        return " or ".join(kind for kind in kinds if not (kind == "whole number" and "number" in kinds))
    if "$ref" in schema:
        return schema["$ref"].rpartition("/")[2].lower()
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema["type"] == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(map(_type, schema['prefixItems']))}]"
        return f"list of {_type(schema['items'])}"
    if schema["type"] == "object":
        return f"mapping to {_type(schema['additionalProperties'])}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]
    kind = "name" if "pattern" in schema else NAMES[schema["type"]]
    return " ".join([kind, ", ".join(limits)]).strip()


def _flow(value: Any) -> str:
    """A value as it is written on one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()


def _settings_table(rows: list[tuple[str, ...]]) -> list[str]:
    return _table(("setting", "type", "default", "what it is"), rows)


def _table(head: tuple[str, ...], rows: Any) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [
        f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in row)} |" for row in lines
    ] + [""]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
