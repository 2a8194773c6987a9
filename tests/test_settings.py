import copy
import functools
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from hpsearch.config import loading, section, stored
from hpsearch.config.composition import compose
from hpsearch.config.dimensions import SEARCHABLE, Choice, Interval
from hpsearch.config.settings import Settings, digest
from hpsearch.errors import RequestError
from hpsearch.state import identity

IMDB = compose([])


def changed(path: str, value: Any) -> DictConfig:
    """The default configuration with one value changed or added, as a user's file could have it."""
    config = OmegaConf.create(OmegaConf.to_container(IMDB))
    OmegaConf.update(config, path, value, merge=False)
    return config


def fault(path: str, value: Any) -> str:
    with pytest.raises(RequestError) as caught:
        loading.load(changed(path, value))
    return str(caught.value)


def space(dimension: dict[str, Any], path: str = "train.weight_decay") -> str:
    return fault("search.space", nested(path, dimension))


def nested(path: str, value: Any) -> dict[str, Any]:
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


def test_the_shipped_configuration_loads() -> None:
    checked = loading.load(IMDB)
    assert checked.study == "imdb-minilm-default"
    assert checked.train.learning_rate == checked.model.reference.learning_rate
    assert isinstance(checked.search.space["train.learning_rate"], Interval)
    assert isinstance(checked.search.space["train.batch_size"], Choice)


def test_all_faults_are_in_one_message() -> None:
    config = changed("train.learning_rate", "fast")
    OmegaConf.update(config, "train.epoch", 3)
    OmegaConf.update(config, "seed", -1)
    OmegaConf.update(config, "task.metric", "bleu")
    OmegaConf.update(config, "search.space.train.epochs.choices", [])
    with pytest.raises(RequestError) as caught:
        loading.load(config)
    message = str(caught.value)
    for part in (
        "train.learning_rate='fast'",
        "train.epoch: there is no such setting; did you mean 'epochs'?",
        "seed=-1",
        "task.metric='bleu'",
        "search.space.train.epochs.choices",
    ):
        assert part in message
    assert message.count("\n") == 5
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.learning_rate", "3e-5"),
        ("train.learning_rate", True),
        ("train.learning_rate", 0),
        ("train.learning_rate", float("nan")),
        ("train.epochs", float("inf")),
        ("train.epochs", 0),
        ("train.batch_size", 16.0),
        ("train.batch_size", "16"),
        ("train.batch_size", 0),
        ("train.warmup", 1),
        ("train.warmup", -0.1),
        ("train.weight_decay", -1e-9),
        ("train.micro_batch_size", 0),
        ("train.scheduler", "linea"),
        ("seed", 1.5),
        ("seed", 2**31),
        ("seed", None),
        ("study", "a/b"),
        ("study", ""),
        ("study", "../up"),
        ("task.name", 3),
        ("task.labels", [0, 1]),
        ("task.max_length", 4),
        ("task.split.test", 0),
        ("task.split.validation", 1),
        ("search.keep", 1),
        ("search.rungs", [0.2, 1.0]),
        ("budget.max_trials", 0),
        ("budget.hours", 0),
        ("budget.search_examples", 0),
        ("budget.confirmation.examples", 0),
        ("train.epochs_factor", 0),
        ("train.retimed", [[3]]),
        ("hardware.workers", "all"),
        ("hardware.device", "gpu"),
        ("tracking.uri", 5),
    ],
)
def test_a_wrong_value_is_named_and_not_converted(path: str, value: Any) -> None:
    assert path in fault(path, value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.epochs", 2),
        ("train.epochs", 0.5),
        ("train.micro_batch_size", 4),
        ("hardware.workers", 2),
        ("search.rungs", []),
        ("task.labels", ["no", "yes"]),
        ("budget.max_trials", None),
        ("budget.hours", 0.5),
        ("train.epochs", None),
        ("train.retimed", [[30, 50], [40, 45]]),
        ("optimizer.options", {"betas": [0.9, 0.95], "amsgrad": True, "foreach": None}),
    ],
)
def test_a_right_value_is_kept(path: str, value: Any) -> None:
    dump = loading.load(changed(path, value)).model_dump(mode="json")
    for part in path.split("."):
        dump = dump[part]
    assert dump == value


def test_a_missing_setting_is_named() -> None:
    config = OmegaConf.create(OmegaConf.to_container(IMDB))
    del config.train["warmup"], config.budget["max_trials"]
    with pytest.raises(RequestError, match=r"(?s)train\.warmup: is required.*budget\.max_trials: is required"):
        loading.load(config)


def test_a_missing_value_is_named() -> None:
    assert "task.files.train" in fault("task.files", {"train": "???", "validation": None, "test": None})


@pytest.mark.parametrize("path", ["_target_", "train._target_", "optimizer.options._target_", "task.packaged._target_"])
def test_a_target_is_refused_anywhere(path: str) -> None:
    message = fault(path, "os.system")
    assert "_target_ is not allowed" in message
    assert path in message


def test_a_target_inside_a_list_is_refused() -> None:
    assert "task.labels.0._target_" in fault("task.labels", [{"_target_": "os.system"}])


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        ({"low": 0.2, "high": 0.1}, "low 0.2 is above high 0.1"),
        ({"low": 0.0, "high": 0.1, "log": True}, "needs low above 0"),
        ({"low": 0.0, "high": 0.1, "step": 0}, "step must be above 0"),
        ({"low": 0.01, "high": 0.1, "step": 0.01, "log": True}, "log and step exclude each other"),
        ({"choices": []}, "at least 1 item"),
        ({"low": 0.1}, "search.space.train.weight_decay.high: is required"),
        ({"low": 0.1, "high": float("inf")}, "finite"),
        ({"low": "a", "high": 0.1}, "weight_decay.low"),
        ({"low": 0.0, "high": 0.1, "logg": True}, "logg: there is no such setting"),
        ({"choices": [0.0, 0.1], "log": True}, "log: there is no such setting"),
        ({"choices": [0.0, -1.0]}, "-1.0 is no value for train.weight_decay"),
        ({"choices": [0.0, "much"]}, "'much' is no value for train.weight_decay"),
        ({"low": -1.0, "high": 0.1}, "-1.0 is no value for train.weight_decay"),
        ({"low": 0.0, "high": 0.1, "when": {"train.scheduler": ["linear"]}}, "train.scheduler, which is not searched"),
    ],
)
def test_a_wrong_dimension_is_named(dimension: dict[str, Any], message: str) -> None:
    found = space(dimension)
    assert message in found
    assert "search.space.train.weight_decay" in found


@pytest.mark.parametrize(
    ("path", "suggestion"),
    [
        ("train.learnin_rate", "train.learning_rate"),
        ("train.weight_decy", "train.weight_decay"),
        ("model.droput", "model.dropout"),
    ],
)
def test_a_searched_path_must_exist(path: str, suggestion: str) -> None:
    message = space({"low": 0.1, "high": 0.2}, path)
    assert f"search.space.{path}: there is no such setting to search; did you mean '{suggestion}'?" in message


@pytest.mark.parametrize("path", ["seed", "train.log_every", "task.name", "budget.max_trials", "train"])
def test_what_is_no_hyperparameter_cannot_be_searched(path: str) -> None:
    assert f"search.space.{path}: there is no such setting to search" in space({"choices": [1, 2]}, path)


def test_a_condition_that_never_holds_is_named() -> None:
    dimension = {"low": 0.0, "high": 0.1, "when": {"train.batch_size": [16, 17]}}
    message = fault("search.space.train.weight_decay", dimension)
    assert "when has train.batch_size: 17, which is none of its choices" in message


def test_whole_numbers_need_a_whole_step() -> None:
    assert "takes whole numbers, so step must be one, and it is 0.5" in space(
        {"low": 8, "high": 16, "step": 0.5}, "train.batch_size"
    )


def test_an_interval_of_words_is_refused() -> None:
    assert "takes choices" in space({"low": 0, "high": 1}, "train.scheduler")


def test_a_condition_on_a_searched_setting_is_accepted() -> None:
    decay = {"low": 0.0, "high": 0.1, "when": {"train.scheduler": ["linear"]}}
    searched = {"train": {"scheduler": {"choices": ["linear", "constant"]}, "weight_decay": decay}}
    assert loading.load(changed("search.space", searched)).search.space["train.weight_decay"].when


def test_rungs_must_ascend() -> None:
    assert "rungs must ascend" in fault("search.rungs", [0.5, 0.2])
    assert "rungs must ascend" in fault("search.rungs", [0.2, 0.2])


def test_a_source_must_be_described() -> None:
    assert "source is files, but task imdb describes only: packaged, hub" in fault("task.source", "files")


def test_settings_are_frozen() -> None:
    checked = loading.load(IMDB)
    with pytest.raises(ValueError, match="frozen"):
        checked.train.learning_rate = 1.0  # type: ignore[misc]


def test_settings_survive_json() -> None:
    checked = loading.load(IMDB)
    assert loading.from_plain(checked.model_dump(mode="json")) == checked


def leaves(section_: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section_.items():
        if isinstance(value, dict) and name not in ("space", "options", "columns", "where", "classes", "resources"):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def test_stored_settings_may_lack_any_that_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of today's settings, and each section, as if it had come after the study."""
    monkeypatch.setattr(stored, "CAME_LATER", {})
    checked = loading.load(IMDB)
    plain = checked.model_dump(mode="json")
    found = dict(leaves(plain)) | {"promotion": plain["promotion"], "task.packaged": plain["task"]["packaged"]}
    assert len(found) > 70
    for path, value in found.items():
        *parents, name = path.split(".")
        older = copy.deepcopy(plain)
        section_ = functools.reduce(dict.__getitem__, parents, older)
        del section_[name]
        with pytest.raises(RequestError, match=f"another version of hpsearch.*{path}: is required"):
            loading.from_plain(older)
        with monkeypatch.context() as patch:
            patch.setattr(stored, "CAME_LATER", {path: value})
            assert loading.from_plain(older) == checked
            assert stored.as_before(plain) == older
            with pytest.raises(RequestError, match=f"{path}: is required"):  # of what a user gives nothing is guessed
                loading.load(OmegaConf.create(older))


def test_what_came_later_in_a_section_that_a_study_has_not_is_not_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = loading.load(IMDB)
    assert checked.task.files is None
    monkeypatch.setattr(stored, "CAME_LATER", {"task.files.delimiter": ","})
    assert loading.from_plain(checked.model_dump(mode="json")) == checked


def test_stored_settings_may_have_what_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = loading.load(IMDB)
    older = checked.model_dump(mode="json")
    older["train"]["retired"] = 3
    with pytest.raises(RequestError, match=r"train\.retired: there is no such setting"):
        loading.from_plain(older)
    monkeypatch.setattr(stored, "GONE", {"train.retired": 2, "task.files.never": 1})
    assert loading.from_plain(older) == checked
    assert older["train"]["retired"] == 3, "what is read is left as it is"


def test_what_came_later_and_what_is_gone_are_settings_and_none() -> None:
    paths = dict(leaves(loading.load(IMDB).model_dump(mode="json")))
    assert not stored.GONE.keys() & paths.keys()
    for path in stored.CAME_LATER:
        assert any(known == path or known.startswith(f"{path}.") for known in paths), path


def test_replace_checks_what_it_puts_in() -> None:
    train = loading.load(IMDB).train
    assert section.replace(train, {"batch_size": 4}).batch_size == 4
    with pytest.raises(ValueError, match="batch_size"):
        section.replace(train, {"batch_size": 0})


def test_secrets_and_places_are_no_part_of_a_studys_identity() -> None:
    here = loading.load(IMDB)
    there = loading.load(changed("storage.uri", "postgresql://me:hunter2@db/optuna"))
    assert identity.comparable(there) == identity.comparable(here)
    assert "hunter2" not in str(identity.comparable(there))


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        ("budget.max_trials", 99, True),
        ("budget.hours", 9, True),
        ("budget.search_examples", 9, True),
        ("budget.final", False, True),
        ("budget.final_seeds", 9, True),
        ("budget.confirmation.seeds", 9, True),
        ("budget.confirmation.examples", 9, True),
        ("train.examples", 9, True),
        ("train.epochs", 9, False),
        ("train.epochs_factor", 2, False),
        ("hardware.workers", 2, True),
        ("tracking.uri", "http://localhost:5000", True),
        ("study", "other", True),
        ("train.weight_decay", 0.5, False),
        ("task.max_length", 64, False),
        ("seed", 7, False),
        ("budget.train_examples", 7, False),
        ("search.keep", 0.5, False),
        ("model.dropout", 0.2, False),
    ],
)
def test_identity_is_what_changes_results(path: str, value: Any, same: bool) -> None:
    identities = [identity.comparable(loading.load(config)) for config in (IMDB, changed(path, value))]
    assert (identities[0] == identities[1]) is same
    assert (digest(identities[0]) == digest(identities[1])) is same


def test_every_searchable_path_is_a_setting() -> None:
    dump = loading.load(IMDB).model_dump()
    assert len(SEARCHABLE) >= 12
    for path in SEARCHABLE:
        section, field = path.split(".")
        assert field in dump[section]


def test_every_setting_of_the_root_has_a_section_or_description() -> None:
    assert all(f.description or issubclass(f.annotation, section.Section) for f in Settings.model_fields.values())


numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(low=numbers, high=numbers, log=st.booleans(), step=st.none() | numbers)
def test_an_interval_that_loads_is_one_that_can_be_sampled(
    low: float, high: float, log: bool, step: float | None
) -> None:
    good = low <= high and not (log and low <= 0) and not (step is not None and (step <= 0 or log))
    try:
        Interval(low=low, high=high, log=log, step=step)
    except ValueError:
        assert not good
    else:
        assert good


plain = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3)
any_value = st.recursive(plain, lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=3), x, max_size=2))
PATHS = sorted(
    {"study", "seed", *SEARCHABLE, "task", "search.space", "search.space.train", "model.prior", "budget.name"}
)


@hypothesis.settings(max_examples=40, deadline=None)
@given(path=st.sampled_from(PATHS), value=any_value)
def test_any_value_is_accepted_or_refused_with_a_message(path: str, value: Any) -> None:
    try:
        loaded = loading.load(changed(path, value))
    except RequestError as error:
        message = str(error)
    else:
        message = loaded.study
    assert message
