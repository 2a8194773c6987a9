"""The points that users ask for with `hpsearch try`."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.config.space import Params
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import Status, TrialRecord
from hpsearch.state.steering import Asked, Steering


class Wanted:
    """The points of one study that have no trial yet."""

    def __init__(self, folder: StudyFolder, trials: Iterable[TrialRecord]) -> None:
        """Load them: those of accepted commands that none of the trials has begun for."""
        begun = {trial.command for trial in trials}
        accepted = Steering(folder).accepted()
        self._asked = [one for one in accepted if one.command.params is not None and one.name not in begun]

    @property
    def points(self) -> list[Params]:
        """The points, in the order in which they were asked for."""
        return [asked.command.params for asked in self._asked if asked.command.params is not None]

    def take(self, asked: Asked, settings: Settings, trials: Sequence[TrialRecord], most: int | None) -> str | None:
        """Take one more point. Return None, or why it is refused.

        Args:
            asked: the command.
            settings: the study's settings.
            trials: the trials that can be compared with that of the point.
            most: maximum number of these trials; None where the study runs points again with other seeds.
        """
        params = asked.command.params
        if settings.sampler.name == "GridSampler":
            return "a grid has its own points"
        if params is None or space.point(settings, params) != params:
            return "this is no point of the space"
        if params in self.points:
            return "this point is to be run next already"
        if most is not None:
            if len(trials) + len(self._asked) >= most:
                return f"all {most} trials have begun, or have a point"
            same = [one.number for one in trials if one.params == params and one.status is not Status.FAILED]
            if same:
                return f"trial {same[0]} has this point"
        self._asked.append(asked)
        return None

    def begun(self, trial: TrialRecord) -> TrialRecord:
        """Return the trial with the command that asked for its point, and drop that command from the list."""
        for asked in self._asked:
            if trial.params == asked.command.params:
                self._asked.remove(asked)
                return replace(trial, command=asked.name)
        return trial
