"""The phases of a study, in their order. A new phase is a class and an entry in PHASES."""

from collections.abc import Iterator

from hpsearch.coordinator.confirmation import Confirmation
from hpsearch.coordinator.final import Final
from hpsearch.coordinator.phase import Phase, StudyContext
from hpsearch.coordinator.search import Search
from hpsearch.errors import RequestError

PHASES: tuple[type[Phase], ...] = (Search, Confirmation, Final)


class Course:
    """The phases of one study, each opened when those before it are done."""

    def __init__(self, study: StudyContext) -> None:
        self.study = study
        self.opened: list[Phase] = []
        self._kinds = [kind for kind in PHASES if kind.asked(study.settings)]

    def __iter__(self) -> Iterator[Phase]:
        """Yield the phases one after the other. The caller asks for the next phase once the present one is done."""
        for i, kind in enumerate(self._kinds):
            if i == len(self.opened):
                self.opened.append(kind.open(self.study, tuple(self.opened)))
            yield self.opened[i]

    @property
    def first(self) -> Phase:
        """The first phase, which is opened if it is not open yet."""
        return next(iter(self))

    @property
    def last(self) -> Phase:
        """The last phase that is opened. Once the study is done, this phase decides."""
        return self.opened[-1]

    def phase_of(self, folder: str) -> Phase:
        """Return the phase whose trial has this folder inside the study's folder."""
        return next(phase for phase in self.opened if folder.startswith(f"{phase.place}/"))

    def so_far(self) -> str:
        """Return a text for people that says how much has been run. The study must be done."""
        counts = []
        for phase in self:
            of = f" of {phase.total}" if phase.total is not None else ""
            if phase.trials:
                counts.append(f"{len(phase.trials)}{of} {phase.noun}{'' if len(phase.trials) == 1 else 's'}")
        return ", ".join(counts)

    def done(self) -> bool:
        """Return whether nothing is left to run."""
        return all(phase.done() for phase in self)

    def check_left_out(self) -> None:
        """Check that the study can do without a phase that it has had. Raises RequestError if it cannot.

        Once a later phase has decided, the models of earlier phases are gone.
        """
        folder = self.study.folder
        former = [kind for kind in PHASES if kind not in self._kinds and folder.trials(kind.place)]
        if not former:
            return
        for i, phase in enumerate(self, start=1):
            models = [phase.trial_folder(trial.number).model for trial in phase.kept_models()]
            if i == len(self._kinds) and not all(model.exists() for model in models):
                raise RequestError(
                    f"{former[0].left_out}: study {folder.name} has had its {former[0].name}, and the models of its "
                    f"{phase.noun}s are gone; leave the {former[0].name} in, or give STUDY=<another name>"
                )
            if not phase.done():
                return
