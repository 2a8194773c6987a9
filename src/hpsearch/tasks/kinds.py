"""The task kinds by name. `kind.Kind` says what a kind declares."""

from hpsearch.data.reading import listed
from hpsearch.errors import RequestError, nearest
from hpsearch.tasks.classification import MultilabelClassification, TextClassification
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.question_answering import QuestionAnswering
from hpsearch.tasks.token_classification import TokenClassification


class _Kinds(dict[str, Kind]):
    """Task kinds by name."""

    def __missing__(self, name: str) -> Kind:
        raise RequestError(f"task.kind={name}: there is no such kind; there are {listed(self)}{nearest(name, self)}")


ALL = (TextClassification(), MultilabelClassification(), QuestionAnswering(), TokenClassification())
KINDS = _Kinds({kind.name: kind for kind in ALL})
