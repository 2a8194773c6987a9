import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hpsearch import arguments, cli, errors
from hpsearch.config import composition, loading
from hpsearch.config.settings import Settings
from hpsearch.config.shipped import shipped_conf
from hpsearch.errors import RequestError

ROOT = Path(__file__).parents[1]
TROUBLE = 'my, [conf] = ${x}\'s \\ "q" Jürgen #1 100%25? \\'  # in the name of a folder
MINE = "defaults: [csv, _self_]\nname: tickets\nfiles: {train: tickets.csv}\ncolumns: {text: subject, label: team}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a state folder that does not exist."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HPSEARCH_HOME", str(folder / "home"))
    return folder


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a file into the user's folder of configurations, whose name asks for trouble, and returns the folder."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / TROUBLE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return tmp_path / TROUBLE

    return write


def refusal(capsys: pytest.CaptureFixture[str], *argv: str, loading: bool = False) -> str:
    """What a wrong request is told, at once or after slow imports, of which one line tells."""
    assert cli.main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(r"[0-9:]{8}  loading torch, Optuna and MLflow\n" if loading else "", out)
    assert err.startswith("hpsearch: error: ")
    assert "Traceback" not in err
    return err


def load(text: str) -> Settings:
    return loading.load(OmegaConf.create(text))


# --- wrong requests --------------------------------------------------------------------------------------------------

TASKS = "csv, imdb, multilabel, ner_files, qa_demo, qa_files, rotten_tomatoes, squad, squad_v2"
WRONG = [
    (
        ["task=imbd"],
        f"no such task; did you mean imdb? valid: {TASKS}",
    ),
    (
        ["task=poems"],
        f"task=poems: no such task; valid: {TASKS}",
    ),
    (["task="], f"valid: {TASKS}"),
    (["task=null"], "task=null: no such task"),
    (["task=[imdb,csv]"], "no such task"),
    (["model=roberta"], "did you mean roberta-base?"),
    (
        ["model=gpt2.5"],
        "valid: bert-base, deberta-v3-base, deberta-v3-small, distilbert, electra-base, gpt2, minilm, "
        "modernbert-base, roberta-base",
    ),
    (["optimizer=adam"], "did you mean adamw?"),
    (["search=wild"], "did you mean wide?"),
    (["budget=quik"], "did you mean quick? valid: full, quick, standard, and times as 90s, 15m, 2h"),
    (["budget=15min"], "budget=15min: no such budget; valid: full, quick, standard, and times as 90s, 15m, 2h"),
    (["budget=-2h"], "valid: full, quick, standard, and times as 90s, 15m, 2h"),
    (["budget=0m"], "budget.hours=0.0"),
    (["budget.hours=0"], "budget.hours=0"),
    (
        ["budget.hours=null"],
        "budget.hours is null, so budget.max_trials and budget.confirmation.finalists and budget.confirmation.seeds "
        "must be a number; or give hours, as BUDGET=15m",
    ),
    (["budget.hours=null", "budget.max_trials=3", "budget.confirmation.seeds=1"], "so budget.confirmation.finalists"),
    (["sampler=ga"], "valid: cmaes, gp, grid, qmc, random, tpe"),
    (["train=3"], "train=3: no such train; valid: default"),
    (["~task"], "write task=NAME"),
    (["+task=csv"], "write task=NAME"),
    (["task@elsewhere=csv"], "write task=NAME"),
    (["tsk=imdb"], "tsk: no such setting; did you mean task?"),
    (["train.learnin_rate=1e-4"], "no such setting; did you mean train.learning_rate? valid: train.learning_rate,"),
    (["train.lr=1e-4"], "train.lr: no such setting; valid: train.learning_rate, train.batch_size"),
    (["learning_rate=1e-4"], "did you mean train.learning_rate?"),
    (["trian.warmup=0.1"], "did you mean train.warmup?"),
    (["train.learning_rate.low=1e-4"], "train.learning_rate.low: no such setting"),
    (["lr=1"], "lr: no such setting; valid: task, model, train"),
    (["train.learnin_rate=1", "seeed=2"], "seeed: no such setting; did you mean seed?"),
    (["task.files.train=a.csv"], "no such setting in this composition; it comes with task=csv"),
    (["task=csv"], "task.name, task.files.train: required; add task.name=... task.files.train=..."),
    (["task=csv", "task.name=x"], "task.files.train: required"),
    (["imdb"], "'imdb' is no setting=value; did you mean task=imdb?"),
    (["task=csv", "task.name=x", "task.files.train=my", "file.csv"], "quote a value that has spaces"),
    (["seed", "=", "3"], "'seed' is no setting=value"),
    ([""], "'' is no setting=value"),
    (["=3"], "names no setting"),
    (["seed =3"], "'seed ' is no name of a setting"),
    (["study=a=b"], "quote it for the shell and for hpsearch: 'study=\"a=b\"'"),
    (["study=é"], "'study=\"é\"'"),
    (["task.labels=[a"], "close every quote and bracket"),
    (["study='a"], "close every quote and bracket"),
    (["model.path=~/model"], "write $HOME for ~"),
    (["train.warmup=0.1,0.2"], "takes one value; a list is written train.warmup=[...]"),
    (["train.epochs=range(1,3)"], "what a sweep tries stands under search.space"),
    (["hydra.run.dir=x"], "Hydra's own settings have no use here"),
    (["~train.foo"], "'train.foo' does not exist"),
    (["+train.foo=1"], "train.foo: there is no such setting"),
    (["~train.warmup"], "train.warmup: is required"),
    (["+train._target_=os.system"], "_target_ is not allowed"),
    (["train.learning_rate=fast"], "train.learning_rate='fast'"),
    (["train.learning_rate=nan"], "train.learning_rate=nan"),
    (["study=${nothing}"], "study: Interpolation key 'nothing' not found"),
    (["study=${oc.env:NO_SUCH_VARIABLE}"], "NO_SUCH_VARIABLE"),
    (["search.space.train.learning_rate.low=1"], "low 1 is above high"),
    (["search.space.train.learning_rate.low=0"], "needs low above 0"),
    (["search.space.train.batch_size.choices=[]"], "search.space.train.batch_size.choices=(): "),
    (["+search.space.train.epoch.choices=[1]"], "did you mean 'train.epochs'?"),
    (["--fast"], "config has no option --fast"),
    (["--config-dir"], "expected one argument"),
    (["--config-dir", "nowhere"], "nowhere: there is no such folder"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[" ".join(overrides) for overrides, _ in WRONG])
def test_a_wrong_request_is_explained_and_leaves_nothing(
    overrides: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(capsys, "config", *overrides)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("folder", ["file", "file/deeper"])
def test_a_home_that_is_no_folder_is_refused(
    folder: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").write_text("")
    monkeypatch.setenv("HPSEARCH_HOME", str(here / folder))
    assert f"HPSEARCH_HOME: {here / 'file'} is not a folder" in refusal(capsys, "history")


def test_a_home_may_begin_with_a_tilde_and_name_no_user(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HPSEARCH_HOME", "~nobody-of-that-name")
    assert cli.home() == here / "~nobody-of-that-name"
    assert "there is no such folder" in refusal(capsys, "config", "--config-dir", "~nobody-of-that-name")


@pytest.mark.parametrize(("name", "message"), [("x" * 300, "File name too long"), ("a\udcff", "is not UTF-8")])
def test_a_home_with_an_impossible_name_is_refused(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HPSEARCH_HOME", name)
    assert message in refusal(capsys, "history")


def test_a_word_that_is_not_utf_8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'study=\\udcff' is not UTF-8" in refusal(capsys, "config", "study=\udcff")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "sqlite:////nowhere/x.db",
            "storage.uri=sqlite:////nowhere/x.db: /nowhere is not a folder",
        ),
        ("studies.db", "storage.uri=studies.db: Could not parse"),
        ("nosql://somewhere/x", "storage.uri=nosql://somewhere/x: Can't load plugin"),
        ("oracle+oracledb://me:secret@somewhere/x", "storage.uri=oracle+oracledb://***@somewhere/x: No module named"),
    ],
)
def test_an_address_of_no_usable_database_is_refused(
    address: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(capsys, "sweep", f"storage.uri={address}")
    assert message in said
    assert "secret" not in said
    assert list(here.iterdir()) == []


def test_a_setting_that_an_override_adds_is_no_fault(capsys: pytest.CaptureFixture[str]) -> None:
    added = ["+optimizer.options.amsgrad=true", "optimizer.options.amsgrad=false"]
    assert cli.main(["config", *added]) == 0
    capsys.readouterr()
    message = refusal(capsys, "config", *added, "seeed=1")
    assert message.count("no such setting") == 1
    assert "seeed" in message


@pytest.mark.parametrize(
    "verb", sorted(cli.RUN.keys() - {"try"})
)  # its settings are a point, of which test_steering knows
def test_every_verb_refuses_a_wrong_setting_before_it_starts(
    verb: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--input", "in.csv", "--output", "out.csv"] if verb == "predict" else []
    assert "train.epochs=0" in refusal(capsys, verb, *options, "train.epochs=0")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "VERB"),
        (["swep"], "'sweep'"),
        (["serve", "--port", "http"], "'http' is no port; give a number from 1 to 65535"),
        (["ui", "--port", "65536"], "'65536' is no port"),
        (["sweep", "--port", "5000"], "sweep has no option --port"),
        (["predict", "--input", "a.csv"], "--output"),
    ],
)
def test_wrong_verbs_and_options(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(capsys, *argv)


@hypothesis.settings(
    max_examples=25, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(
        ["", "study=", "task=", "+", "~", "train.warmup=", "search.space.train.batch_size.choices=", "budget="]
    )
    | st.text(max_size=3),
    text=st.text(alphabet="=[]{},'\"$@/ \\0aé.:~-(%", max_size=5),
)
def test_no_override_ends_in_a_traceback(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    hypothesis.assume(not f"{name}{text}".startswith("-"))
    assert cli.main(["config", name + text]) in (0, 2)


# --- config ----------------------------------------------------------------------------------------------------------


def test_config_prints_what_was_composed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["task=rotten_tomatoes", "model=gpt2", "search=wide", "train.epochs=0.5", "task.max_length=32"]
    assert cli.main(["config", *overrides]) == 0
    printed = load(capsys.readouterr().out)
    assert printed == loading.load(composition.compose(overrides))
    assert (printed.study, printed.train.epochs) == ("rotten_tomatoes-gpt2-wide", 0.5)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "name", "hours"),
    [
        ([], "quick", 0.25),
        (["budget=15m"], "15m", 0.25),
        (["budget=2h"], "2h", 2.0),
        (["budget=90s"], "90s", 0.025),
        (["budget=0.5h"], "0.5h", 0.5),
        (["budget=15m", "budget.hours=3"], "15m", 3.0),
        (["budget.hours=3", "budget=15m"], "15m", 3.0),  # wherever it stands
        (["budget=15m", "budget.name=lunch"], "lunch", 0.25),
        (["budget=15m", "budget=standard"], "standard", 2.0),
        (["budget=standard", "budget=15m"], "15m", 0.25),
        (["budget=full"], "full", None),
        (["budget=full", "budget.hours=1"], "full", 1.0),
    ],
)
def test_a_budget_is_a_time(
    overrides: list[str], name: str, hours: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["config", *overrides]) == 0
    chosen = load(capsys.readouterr().out).budget
    assert (chosen.name, chosen.hours) == (name, hours)
    if name != "full":
        quick = loading.load(composition.compose(["budget=quick"])).budget
        assert chosen == quick.model_copy(update={"name": name, "hours": hours})


@pytest.mark.parametrize(("hours", "name"), [(0.25, "15m"), (0.5, "30m"), (2.0, "2h"), (1.5, "1.5h"), (0.025, "1.5m")])
def test_hours_are_named_as_they_are_given(hours: float, name: str) -> None:
    assert composition.hours_named(hours) == name
    assert loading.load(composition.compose([f"budget={name}"])).budget.hours == pytest.approx(hours)


@pytest.mark.parametrize("path", ["tracking.uri", "storage.uri"])
@pytest.mark.parametrize(
    "uri", ["postgresql://me:hunter2@db/mlflow", "http://me:hunter2@host:5000", "mysql://db/x?password=hunter2"]
)
def test_config_shows_no_password(path: str, uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", f'{path}="{uri}"']) == 0
    out = capsys.readouterr().out
    assert "hunter2" not in out
    assert "***" in out


@pytest.mark.parametrize(
    ("with_make", "without"),
    [
        ("give STUDY=<another name>, or BUDGET=2h", "give study=<another name>, or budget=2h"),
        ("go on all the same with ARGS=--force", "go on all the same with --force"),
        ("or give ARGS='--force \"<reason>\"'", 'or give --force "<reason>"'),
        ("run `make sweep TASK=imdb`, or MODEL=minilm", "run `hpsearch sweep task=imdb`, or model=minilm"),
        ("HPSEARCH_TASK=imdb and search.space", "HPSEARCH_TASK=imdb and search.space"),
    ],
)
def test_a_message_names_commands_as_they_are_typed(
    with_make: str, without: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise RequestError(with_make)

    monkeypatch.setattr(cli, "home", refused)
    monkeypatch.setattr(cli, "RUN", {"fsck": refused})
    for make, said in ((True, with_make), (False, without)):
        monkeypatch.setattr("hpsearch.config.shipped.has_make", lambda make=make: make)
        assert cli.main(["fsck", "task=imdb"]) == 2
        assert capsys.readouterr().err == f"hpsearch: error: {said}\n"


def test_a_message_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(capsys, "config", "storage.uri=postgresql://me:hunter2@db/optuna?sslmode=require")
    assert "storage.uri" in message
    assert "hunter2" not in message


def test_values_reach_the_settings_as_typed(capsys: pytest.CaptureFixture[str]) -> None:
    name = "my file, = 100%.csv"
    assert cli.main(["config", "task=csv", "task.name=x", f'task.files.train="{name}"', "task.labels=[a,b]"]) == 0
    task = load(capsys.readouterr().out).task
    assert task.files is not None
    assert (task.files.train, task.labels) == (name, ("a", "b"))


# --- the user's own folder -------------------------------------------------------------------------------------------


def test_a_folder_of_ones_own_adds_choices(own: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    own("budget/lunch.yaml", "defaults: [quick, _self_]\nname: lunch\nhours: 1.0\n")
    folder = own("task/tickets.yaml", MINE)
    assert cli.main(["config", "--config-dir", str(folder), "task=tickets", "budget=lunch", "seed=3"]) == 0
    chosen = load(capsys.readouterr().out)
    assert (chosen.study, chosen.seed) == ("tickets-minilm-default", 3)
    assert chosen.task.columns == {"text": "subject", "label": "team"}
    assert chosen.task.split == loading.load(composition.compose([])).task.split
    assert (chosen.budget.hours, chosen.budget.startup_trials) == (1.0, 6)


def test_the_folder_may_be_relative_and_stand_between_settings(
    here: Path, own: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = os.path.relpath(own("task/tickets.yaml", MINE), here)
    assert cli.main(["config", "task=tickets", "--config-dir", folder, "seed=3"]) == 0
    assert load(capsys.readouterr().out).seed == 3


def test_a_group_of_ones_own_is_added(own: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder = own("experiment/short.yaml", "# @package _global_\ntrain: {epochs: 0.25}\ntask: {max_length: 32}\n")
    assert cli.main(["config", "--config-dir", str(folder), "+experiment=short"]) == 0
    chosen = load(capsys.readouterr().out)
    assert (chosen.train.epochs, chosen.task.max_length) == (0.25, 32)
    assert "write +experiment=NAME; valid: short" in refusal(
        capsys, "config", "--config-dir", str(folder), "experiment=short"
    )
    assert "did you mean short?" in refusal(capsys, "config", "--config-dir", str(folder), "+experiment=shrt")


@pytest.mark.parametrize(
    ("name", "text", "override", "message"),
    [
        (
            "task/tickets.yaml",
            MINE,
            "task=tickts",
            f"did you mean tickets? valid: {TASKS}, tickets",
        ),
        ("task/imdb.yaml", MINE, "seed=1", "task/imdb.yaml has the name of a shipped one"),
        ("task/broken.yaml", "name: [\n", "task=broken", "broken.yaml"),
        ("task/twice.yaml", "name: a\nname: b\n", "task=twice", "twice.yaml"),
        ("task/lost.yaml", "defaults: [nothing]\n", "task=lost", "task/nothing"),
        ("task/empty.yaml", "", "task=empty", "task.name"),
        ("task/list.yaml", "- a\n", "task=list", "name"),
        (
            "task/typo.yaml",
            f"{MINE}metrc: f1\n",
            "task=typo",
            "task.metrc: there is no such setting; did you mean 'metric'?",
        ),
        ("task/code.yaml", f"{MINE}labels: [{{_target_: os.system}}]\n", "task=code", "_target_ is not allowed"),
        ("task/none.yaml", "defaults: [csv, _self_]\n", "task=none", "task.name, task.files.train: required"),
    ],
)
def test_what_is_wrong_with_ones_own_file_is_explained(
    name: str,
    text: str,
    override: str,
    message: str,
    own: Callable[[str, str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert message in refusal(capsys, "config", "--config-dir", str(own(name, text)), override)


# --- verbs -----------------------------------------------------------------------------------------------------------


def test_a_verb_gets_the_settings_and_the_absolute_home(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Settings, Path, Namespace]] = []
    monkeypatch.setitem(cli.RUN, "ui", lambda *arguments: calls.append(arguments))
    assert cli.main(["ui", "seed=7", "--port", "6000"]) == 0
    monkeypatch.setenv("HPSEARCH_HOME", "state")
    assert cli.main(["ui"]) == 0
    monkeypatch.delenv("HPSEARCH_HOME")
    assert cli.main(["ui"]) == 0
    assert [home for _, home, _ in calls] == [here / "home", here / "state", here / "runs"]
    assert [(chosen.seed, args.port) for chosen, _, args in calls] == [(7, 6000), (0, 5000), (0, 5000)]
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RequestError, 2),
        (errors.NoResultError, 3),
        (errors.PromotionRefused, 4),
        (errors.OutOfReachError, 5),
        (errors.Interrupted, 130),
    ],
)
def test_errors_become_messages_and_exit_codes(
    error: type[errors.HpsearchError], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> NoReturn:
        raise error("the reason")

    monkeypatch.setitem(cli.RUN, "sweep", fail)
    assert cli.main(["sweep"]) == code
    assert capsys.readouterr() == ("", "hpsearch: error: the reason\n")


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.RUN, "train", interrupt)
    assert cli.main(["train"]) == 130
    assert "goes on from here" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(*_: object) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere")

    monkeypatch.setitem(cli.RUN, "train", denied)
    assert "/somewhere: Permission denied; let it be read and written" in refusal(capsys, "train")


def test_a_fault_of_the_program_shows_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.RUN, "train", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train"])


@pytest.mark.parametrize("argv", [[], *([verb] for verb in arguments.HELP)])
def test_help_lists_choices_and_exit_codes(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*argv, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for group in (
        "task=       csv imdb multilabel ner_files qa_demo qa_files rotten_tomatoes squad squad_v2",
        "sampler=    cmaes gp grid qmc random tpe",
        "130  interrupted",
    ):
        assert group in out
    assert arguments.HELP.keys() == {*cli.RUN, "config"}


# --- as a program ----------------------------------------------------------------------------------------------------


def program(*argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | variables
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, env=environment, timeout=60)


def test_as_a_module(here: Path) -> None:
    done = program("-m", "hpsearch", "config", "model=distilbert")
    assert (done.returncode, done.stderr) == (0, "")
    assert load(done.stdout).model.name == "distilbert"
    wrong = program("-m", "hpsearch", "sweep", "task=imbd")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.count("\n") == 1
    assert list(here.iterdir()) == []


OWN = ["task=csv", "task.name=mine", "task.files.train=mine.csv"]
AT_ONCE = [
    ["sweep", "seed=x"],
    ["train", *OWN[:2], "task.files.train=missing.csv"],
    ["sweep", *OWN, "task.columns.text=subject"],
    ["sweep", *OWN, "task.files.encoding=ascii"],
    ["sweep", "model.path=./missing"],
    ["train", "storage.uri=studies.db"],
    ["promote", *OWN],
    ["predict", "--input=missing.csv", "--output=labelled.csv", *OWN],
    ["predict", "--input=mine.csv", "--output=labelled.tsv", *OWN],
    ["reproduce"],
]


@pytest.mark.parametrize("words", AT_ONCE, ids=" ".join)
def test_a_wrong_request_waits_for_no_import(words: list[str], here: Path) -> None:
    (here / "mine.csv").write_text("text,label\nein schöner Film,good\n", encoding="utf-8")
    code = f"import sys; from hpsearch.cli import main; print(main({words})); print(*sys.modules)"
    said, *modules = program("-c", code).stdout.split()
    assert said == "2"
    assert "hydra" in modules
    assert not {"torch", "transformers", "optuna", "mlflow", "datasets"} & set(modules)


@pytest.mark.parametrize("verb", ["history", "rollback", "serve"])
def test_what_asks_mlflow_alone_needs_no_torch(verb: str) -> None:
    code = f"import sys; from hpsearch.cli import main; main(['{verb}', 'task=imdb']); print(); print(*sys.modules)"
    modules = program("-c", code).stdout.splitlines()[-1].split()
    assert "mlflow" in modules
    assert not {"torch", "transformers", "optuna", "datasets", "sklearn", "matplotlib"} & set(modules)


def test_the_wheel_carries_the_configurations(tmp_path: Path, here: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next((tmp_path / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    package = tmp_path / "site" / "hpsearch"
    shipped = {path.relative_to(shipped_conf()) for path in shipped_conf().rglob("*.yaml")}
    assert {path.relative_to(package / "conf") for path in (package / "conf").rglob("*.yaml")} == shipped
    source = ROOT / "src" / "hpsearch"
    carried = {path.name for path in source.iterdir() if path.is_file()}
    assert {path.name for path in package.iterdir() if path.is_file()} == carried
    shows = "from hpsearch.config.shipped import shipped_conf; print(shipped_conf())"
    code = f"{shows}; from hpsearch import cli; cli.main(['config'])"
    first, _, printed = program("-c", code, PYTHONPATH=str(tmp_path / "site")).stdout.partition("\n")
    assert Path(first) == package / "conf"
    assert load(printed) == loading.load(composition.compose([]))


# --- make ------------------------------------------------------------------------------------------------------------


def make(*arguments: str) -> str:
    """What make would run or print, with the environment taken for up to date."""
    stamps = [f"--assume-old=.venv/bin/.hpsearch-{name}" for name in ("runtime", "dev")]
    command = ["make", "--no-print-directory", "-C", str(ROOT), *stamps, *arguments]
    variables = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=variables).stdout


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sweep"], ["sweep"]),
        (["sweep", "TASK=imdb"], ["sweep", "task=imdb"]),
        (["report", "TASK=imdb", "MODEL=", "STUDY=my study"], ["report", "task=imdb", "study=my study"]),
        (
            ["train", "TASK=csv", "MODEL=gpt2", "SEARCH=wide", "BUDGET=full", "ARGS=task.name=x seed=3"],
            ["train", "task=csv", "model=gpt2", "search=wide", "budget=full", "task.name=x", "seed=3"],
        ),
        (["sweep", 'ARGS=task.files.train="my file.csv" seed=3'], ["sweep", "task.files.train=my file.csv", "seed=3"]),
        (["serve", "TASK=imdb", "ARGS=--port 6000"], ["serve", "task=imdb", "--port", "6000"]),
    ],
)
def test_make_passes_on_what_is_given(arguments: list[str], expected: list[str]) -> None:
    assert shlex.split(make("--dry-run", *arguments)) == [".venv/bin/hpsearch", *expected]


@needs_make
def test_make_help_explains_every_target_and_variable() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z-]+):", text, re.MULTILINE)
    variables = re.findall(r"^([A-Z]+) \?=", text, re.MULTILINE)
    assert {"setup", "help", *arguments.HELP} <= set(targets)
    assert {"TASK", "MODEL", "SEARCH", "BUDGET", "STUDY", "ARGS", "PYTHON"} == set(variables)
    explained = re.findall(r"^  ([A-Za-z-]+) +\S", make("help"), re.MULTILINE)
    assert explained == targets + variables


def test_squad_without_files_or_network_says_how_to_supply_data(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    said = refusal(capsys, "sweep", "task=squad", "hardware.device=cpu", loading=True)
    for way in ("task.hub.path=rajpurkar/squad", "task.files.train=<path>", "TASK=qa_demo", "HF_HOME"):
        assert way in said
    assert not list(here.iterdir())
