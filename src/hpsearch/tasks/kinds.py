"""The task kinds there are; `kinds.Kind` says what one declares."""

from hpsearch.tasks.classification import MultilabelClassification, TextClassification
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.question_answering import QuestionAnswering

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (TextClassification(), MultilabelClassification(), QuestionAnswering())
}
