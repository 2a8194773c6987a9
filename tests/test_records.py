"""What is remembered of a trial, and read again by this version and by later ones."""

import json
import math
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from hpsearch.state import codec
from hpsearch.state.records import Status, TrialRecord

FULL = TrialRecord(
    number=3,
    params={"train.batch_size": 16, "train.learning_rate": 1e-5, "train.scheduler": "linear"},
    status=Status.PRUNED,
    run_id="abc",
    rungs={0: 0.5, 1: 0.75},
    score=0.75,
    metrics={"loss": math.inf},
    confusion=((1, 2), (3, 4)),
    fitted={"thresholds": [0.5, 0.25]},
    seconds={"setup": 1.0},
    entrant="trial 1",
    seed=5,
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    FULL.save(tmp_path)
    found = TrialRecord.load(tmp_path)
    assert found == FULL
    assert [type(value) for value in found.params.values()] == [int, float, str]


@pytest.mark.parametrize("name", [field.name for field in fields(TrialRecord)])
def test_only_what_every_trial_has_must_be_there(name: str) -> None:
    raw = json.loads(json.dumps(asdict(FULL)))
    del raw[name]
    if name in ("number", "params", "status"):
        with pytest.raises(ValueError, match=f"^{name}: Field required$"):
            codec.parse(TrialRecord, json.dumps(raw))
    else:
        default = getattr(TrialRecord(0, {}, Status.RUNNING), name)
        assert asdict(codec.parse(TrialRecord, json.dumps(raw))) == asdict(FULL) | {name: default}


def test_a_field_that_is_gone_is_left_out() -> None:
    assert codec.parse(TrialRecord, json.dumps(asdict(FULL) | {"retired": 1})) == FULL


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        ([1], "object"),
        ({}, "number: Field required"),
        (asdict(FULL) | {"rungs": {"x": 1}}, r"rungs\.x.*: Input should be"),
    ],
)
def test_a_damaged_record_is_a_value_error_on_one_line(damaged: object, said: str) -> None:
    with pytest.raises(ValueError, match=f"^[^\n]*{said}[^\n]*$"):
        codec.parse(TrialRecord, json.dumps(damaged))
