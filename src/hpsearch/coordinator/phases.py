"""The phases of a study, in their order. A new one is a class and an entry here."""

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
        """One after the other; the caller asks for the next one once a phase is done."""
        for i, kind in enumerate(self._kinds):
            if i == len(self.opened):
                self.opened.append(kind.open(self.study, tuple(self.opened)))
            yield self.opened[i]

    @property
    def first(self) -> Phase:
        """Opened by then."""
        return next(iter(self))

    @property
    def last(self) -> Phase:
        """Of those that are opened: once the study is done, the one that decides."""
        return self.opened[-1]

    def phase_of(self, folder: str) -> Phase:
        """The phase whose trial has this folder inside the study's."""
        return next(phase for phase in self.opened if folder.startswith(f"{phase.place}/"))

    def so_far(self) -> str:
        """How much has been run, for people; the study is done."""
        counts = []
        for phase in self:
            of = f" of {phase.total}" if phase.total is not None else ""
            if phase.trials:
                counts.append(f"{len(phase.trials)}{of} {phase.noun}{'' if len(phase.trials) == 1 else 's'}")
        return ", ".join(counts)

    def done(self) -> bool:
        """Whether nothing is left to be run."""
        return all(phase.done() for phase in self)

    def check_left_out(self) -> None:
        """See that the study can do without a phase that it has had. Raises RequestError if not.

        Once a later phase has decided, the models of those before it are gone.
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
