"""The gate's rules, without a registry."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpsearch.config.settings import PromotionSettings
from hpsearch.config.shipped import shipped_conf
from hpsearch.errors import RequestError
from hpsearch.registry.gate import Contender, Exam, Verdict, decide
from hpsearch.state.measured import Replies
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES
from make import compose_settings

KIND = KINDS["text_classification"]
TRUTHS = ["yes", "no"] * 100
LABELS = ("no", "yes")
SHIPPED = sorted(path.stem for path in (shipped_conf() / "promotion").glob("*.yaml"))


def rule(name: str) -> PromotionSettings:
    return compose_settings(f"promotion={name}").promotion


def model(wrong: int, first: int = 0, **facts: Any) -> Contender:
    """One that has this many wrong, from this example on."""
    answers = [
        truth if not first <= i < first + wrong else {"yes": "no", "no": "yes"}[truth] for i, truth in enumerate(TRUTHS)
    ]
    return replace(Contender(f"{wrong} wrong", Replies(answers, None), 100.0, 0.01, "here"), **facts)


def decided(
    name: str,
    challenger: Contender,
    champion: Contender | None,
    reference: Replies | None = None,
    floor: Contender | None = None,
) -> Verdict:
    exam = Exam(KIND, LABELS, OBJECTIVES["accuracy"], TRUTHS)
    return decide(rule(name), exam, challenger, champion, reference, floor)


def test_there_are_shipped_rules() -> None:
    assert SHIPPED == ["better", "cheaper", "every_class"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_rule_takes_the_clearly_better_and_cheaper_and_refuses_the_worse(name: str) -> None:
    champion = model(40)
    assert decided(name, model(5, megabytes=50.0), champion).passed
    assert not decided(name, model(60, megabytes=50.0), champion).passed
    assert decided(name, model(20), None).passed
    assert not decided(name, model(95), None).passed


def test_better_needs_evidence() -> None:
    assert not decided("better", model(40), model(40)).passed
    assert not decided("better", model(36), model(40)).passed  # 4 of 4: p = 1/16
    six = decided("better", model(34), model(40))  # 6 of 6: p = 1/64
    assert six.passed
    assert six.comparison.p == pytest.approx(1 / 64)


def test_cheaper_allows_a_margin_and_wants_a_saving() -> None:
    champion, two_points = model(40), rule("cheaper").model_copy(update={"margin": 0.02})

    def passed(challenger: Contender) -> bool:
        return decide(
            two_points, Exam(KIND, LABELS, OBJECTIVES["accuracy"], TRUTHS), challenger, champion, None, None
        ).passed

    assert not passed(model(40))  # saves nothing
    assert passed(model(40, megabytes=80.0))
    assert not passed(model(40, megabytes=81.0))
    assert passed(model(40, seconds_per_example=0.008))
    assert not passed(model(40, seconds_per_example=0.008, hardware="there"))
    assert not passed(model(40, first=100, megabytes=50.0))  # as good, or far worse
    equal = decided("cheaper", model(40, megabytes=80.0), champion)  # 200 examples can't show that 1 point is not lost
    assert not equal.passed
    assert "at least -1.83 points at the level 0.025" in equal.checks[0].text
    unknown = replace(champion, megabytes=None, seconds_per_example=None)
    found = decided("cheaper", model(40, megabytes=50.0), unknown)
    assert not found.passed
    assert "sizes and times are not known" in found.checks[1].text


def test_no_class_may_lose_more_than_the_margin() -> None:
    champion = model(40)
    answers = list(model(0).replies.answers)
    for i in range(41, 61, 2):  # ten of a hundred "no", all of which the champion has right
        answers[i] = "yes"
    # 40 wrong in the first 40 examples are 20 of each class: both gain in the balance.
    most = replace(model(0), replies=Replies(answers, None))
    assert decided("every_class", most, champion).passed
    said = [a if i % 2 == 0 else "no" for i, a in enumerate(champion.replies.answers)]
    found = decided("every_class", most, replace(champion, replies=Replies(said, None)))
    assert [check.passed for check in found.checks] == [True, False, True] or not found.passed
    assert any(not check.passed and check.text.startswith("recall of no") for check in found.checks)


def test_the_first_may_lose_a_point_to_the_reference_recipe() -> None:
    assert decided("better", model(12), None, model(10).replies).passed
    found = decided("better", model(13), None, model(10).replies)
    assert [check.passed for check in found.checks] == [True, False]
    assert "-1.50 points" in found.checks[1].text
    assert decided("better", model(12), model(40), model(0).replies).passed, "a champion is all there is to beat"


def test_a_verdict_says_it_all() -> None:
    verdict = decided("every_class", model(5), model(40))
    assert verdict.passed
    assert verdict.rule.name == "every_class"
    assert len(verdict.checks) == 3
    assert verdict.comparison.n == 200


def test_a_rule_on_classes_is_refused_where_there_are_none(tmp_path: Path) -> None:
    checked = compose_settings("task=qa_demo", "promotion=every_class")
    with pytest.raises(RequestError, match=r"promotion\.class_margin=0\.02: task\.kind=question_answering has no"):
        KINDS["question_answering"].check(checked)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_first_is_no_worse_than_the_best_floor(name: str) -> None:
    floor = replace(model(20), name="a linear model of words")
    assert decided(name, model(20, first=50), None, floor=floor).passed, "as good is enough"
    assert decided(name, model(19), None, floor=floor).passed
    worse = decided(name, model(21), None, floor=floor)
    assert not worse.passed
    [_, check] = worse.checks
    assert not check.passed
    assert "0.895 against 0.900 of a linear model of words on the same 200 test examples: -0.50 points" in check.text
    assert check.text.endswith(", and a first champion may be no worse")


def test_a_champion_s_place_is_not_taken_by_comparison_with_a_floor() -> None:
    assert decided("better", model(20), model(40), floor=model(5)).passed
