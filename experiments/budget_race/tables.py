"""The race as a table and as a picture, of the cells that there are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from cells import HERE, SIDES, Cell, Difference, Evidence, Floor, pooled, read_all
from matplotlib.figure import Figure
from tasks import TASKS

FLOOR = "floor"
COLOURS = {"ours": "C3", "reference": "C1", "trainer": "C0", "trainer_search": "C2", FLOOR: "0.4"}
ACROSS = 3  # pictures in a row


@dataclass(frozen=True)
class Ask:
    """What ours must be, beside one other side."""

    other: str
    least: float
    """That ours gains at least."""
    more: bool = False
    """Whether it must gain more than that."""
    sure: bool = False
    """Whether the low end of the interval says so, and not only the difference."""

    def met(self, found: Difference) -> bool:
        value = found.low if self.sure else found.value
        return value > self.least if self.more else value >= self.least

    @property
    def said(self) -> str:
        if self.more:
            return f"above {self.other}" + (" for sure" if self.sure else "")
        if self.least == 0:
            return f"not below {self.other}"
        points = f"{abs(100 * self.least):.1f} points"
        return f"{points} above {self.other}" if self.least > 0 else f"at most {points} below {self.other}"


@dataclass(frozen=True)
class Goal:
    """One row of what must be reached."""

    task: str
    budget: str
    asks: tuple[Ask, ...]
    score: float | None = None
    """That ours has at least, in the mean over seeds."""


NOT_BELOW = tuple(Ask(other, 0.0) for other in (FLOOR, "reference"))
GOALS = (
    Goal("imdb", "2T1", (Ask("reference", -0.005), Ask(FLOOR, 0.0, more=True, sure=True))),
    Goal("imdb", "4T1", (Ask("reference", 0.0, more=True), Ask(FLOOR, 0.0, more=True)), 0.92),
    Goal("rotten_tomatoes", "10m", (Ask(FLOOR, 0.04), Ask("reference", 0.0))),
    Goal("r8_300", "10m", NOT_BELOW),
    Goal("r8_1000", "10m", NOT_BELOW),
    Goal("imdb_200", "5m", (Ask(FLOOR, 0.0),)),
    Goal("half_dev", "15m", (Ask("reference", 0.0, more=True),), 0.62),
)


@dataclass(frozen=True)
class Heat:
    """All cells of a task and a budget."""

    task: str
    budget: str
    cells: tuple[Cell, ...]

    def of(self, side: str) -> list[Cell]:
        """By seed; the floor's are those of ours."""
        asked = "ours" if side == FLOOR else side
        return sorted((cell for cell in self.cells if cell.side == asked), key=lambda cell: cell.seed)

    @cached_property
    def minutes(self) -> float:
        return fmean(cell.minutes for cell in self.cells)

    @cached_property
    def best_floor(self) -> str | None:
        """That has the best mean score on test, which is more than a user could choose."""
        names = dict.fromkeys(floor.name for cell in self.of("ours") for floor in cell.floors)
        means = {name: fmean(floor.score for floor in self.floors(name).values()) for name in names}
        return max(means, key=lambda name: means[name], default=None)

    def floors(self, name: str) -> dict[int, Floor]:
        """Seed: floor."""
        return {cell.seed: floor for cell in self.of("ours") for floor in cell.floors if floor.name == name}

    def evidence(self, side: str) -> dict[int, Evidence]:
        """Seed: what a side's model said."""
        if side == FLOOR:
            best = self.best_floor
            return {seed: floor.evidence for seed, floor in self.floors(best).items()} if best is not None else {}
        return {cell.seed: cell.evidence for cell in self.of(side) if cell.evidence is not None}

    def scores(self, side: str) -> dict[int, float]:
        """Seed: score; without those that had no model."""
        return {seed: evidence.score for seed, evidence in self.evidence(side).items()}

    def gained(self, other: str) -> Difference | None:
        """Ours over another side, over the seeds that both have."""
        ours, others = self.evidence("ours"), self.evidence(other)
        seeds = sorted(ours.keys() & others.keys())
        return pooled([others[seed] for seed in seeds], [ours[seed] for seed in seeds]) if seeds else None


def write_all() -> None:
    """table.md and race.png."""
    cells = read_all()
    heats = {
        (task, budget): Heat(task, budget, tuple(one for one in cells if (one.task, one.budget) == (task, budget)))
        for task, budget in dict.fromkeys((cell.task, cell.budget) for cell in cells)
    }
    ordered = sorted(heats.values(), key=lambda heat: (list(TASKS).index(heat.task), heat.minutes))
    machines = ", ".join(sorted({cell.machine for cell in cells}))
    parts = [
        f"Measured on: {machines}. Scores are on all test examples, by seed. The interval is over examples, seeds "
        "pooled; the floor is the one that is best on test.",
        *(_section(task, [heat for heat in ordered if heat.task == task]) for task in TASKS),
        _goals(heats),
    ]
    (HERE / "table.md").write_text("\n\n".join(part for part in parts if part) + "\n")
    _draw(ordered)


def _section(task: str, heats: Sequence[Heat]) -> str:
    if not heats:
        return ""
    with_one = [cell for heat in heats for cell in heat.cells if cell.evidence is not None]
    passes = [cell.t1 for cell in with_one if cell.t1 is not None and cell.side == "ours"]
    t1 = f", T1 {min(passes):.0f} to {max(passes):.0f} s by the first plans of ours" if passes else ""
    metric, n = (with_one[0].evidence.metric, with_one[0].n) if with_one and with_one[0].evidence else ("score", 0)
    head = (
        f"## {task}\n\n{metric} on {n:,} test examples{t1}\n\n"
        "| minutes | side | by seed | mean | seconds | ours minus it | what the time went into (first seed) |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    return head + "\n".join(row for heat in heats for row in _rows(heat))


def _rows(heat: Heat) -> Iterator[str]:
    name = f"{heat.minutes:.3g}" + (f" ({heat.budget})" if "T1" in heat.budget else "")
    for side in (*SIDES, FLOOR):
        cells, scores = heat.of(side), heat.scores(side)
        if not cells or (side == FLOOR and not scores):
            continue
        seconds, what = ", ".join(f"{cell.seconds:.0f}" for cell in cells), cells[0].what
        if side == FLOOR:
            best = heat.best_floor or ""
            seconds, what = ", ".join(f"{one.seconds:.0f}" for one in heat.floors(best).values()), best
        found = heat.gained(side) if side != "ours" else None
        of_seeds = ", ".join(f"{scores[cell.seed]:.3f}" if cell.seed in scores else "no model" for cell in cells)
        mean = f"{fmean(scores.values()):.4f}" if scores else ""
        yield f"| {name} | {side} | {of_seeds} | {mean} | {seconds} | {_shown(found)} | {what} |"


def _shown(found: Difference | None) -> str:
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})" if found is not None else ""


def _goals(heats: dict[tuple[str, str], Heat]) -> str:
    rows = [_goal(goal, heats.get((goal.task, goal.budget))) for goal in GOALS]
    head = "## Must reach\n\n| task | budget | asked | found | |\n| --- | --- | --- | --- | --- |\n"
    return head + "\n".join(rows)


def _goal(goal: Goal, heat: Heat | None) -> str:
    asked = [ask.said for ask in goal.asks] + ([f"score at least {goal.score}"] if goal.score is not None else [])
    found = [(ask, heat.gained(ask.other) if heat is not None else None) for ask in goal.asks]
    shown = [f"{_shown(one)} over {ask.other}" for ask, one in found if one is not None]
    met = [ask.met(one) if one is not None else None for ask, one in found]
    if goal.score is not None:
        scores = heat.scores("ours") if heat is not None else {}
        met.append(fmean(scores.values()) >= goal.score if scores else None)
        shown += [f"score {fmean(scores.values()):.4f}"] if scores else []
    said = "not run" if None in met else "reached" if all(met) else "not reached"
    if False in met:
        said = "not reached"
    seeds = f", {len(heat.evidence('ours'))} seeds" if heat is not None and said != "not run" else ""
    return f"| {goal.task} | {goal.budget} | {'; '.join(asked)} | {'; '.join(shown)} | {said}{seeds} |"


def _draw(heats: Sequence[Heat]) -> None:
    names = list(dict.fromkeys(heat.task for heat in heats))
    if not names:
        return
    down = -(-len(names) // ACROSS)
    figure = Figure(figsize=(4.5 * ACROSS, 3.6 * down), layout="constrained")
    axes = figure.subplots(down, ACROSS, squeeze=False).ravel()
    for unused in axes[len(names) :]:
        unused.set_axis_off()
    for place, task in zip(axes, names, strict=False):
        of_task = [heat for heat in heats if heat.task == task]
        for side, colour in COLOURS.items():
            found = [(heat.minutes, heat.scores(side)) for heat in of_task if heat.scores(side)]
            for minutes, scores in found:
                place.plot([minutes] * len(scores), list(scores.values()), ".", color=colour, alpha=0.4)
            minutes_of, means = [minutes for minutes, _ in found], [fmean(scores.values()) for _, scores in found]
            place.plot(minutes_of, means, "s--" if side == FLOOR else "o-", color=colour, label=side)
        ticks = sorted({heat.minutes for heat in of_task})
        place.set_xscale("log")
        place.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
        place.set_xticks([], minor=True)
        metric = next((cell.evidence.metric for heat in of_task for cell in heat.cells if cell.evidence), "score")
        place.set(title=task, xlabel="minutes", ylabel=f"{metric} on test")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS))
    figure.savefig(HERE / "race.png", dpi=110)
