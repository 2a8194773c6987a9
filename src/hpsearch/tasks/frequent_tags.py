"""The most frequent tag of each word, and the entities that these tags make. A served model carries this file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpsearch.tasks import entities, floor_file
from hpsearch.tasks.entities import Entity


class FrequentTags:
    """A model that gives each word its most frequent tag."""

    def __init__(self, classes: int, tags: dict[str, tuple[int, float]], other: float) -> None:
        """Store the tags of the words.

        Args:
            classes: number of classes of entities.
            tags: for each word, its most frequent tag as an index into `entities.tags`, and the share of that tag.
            other: share of the words outside entities, for words that are not in `tags`.
        """
        self.classes, self.tags, self.other = classes, tags, other

    @staticmethod
    def load(folder: Path) -> "FrequentTags":
        """Load the model that `save` wrote."""
        described, arrays = floor_file.load(folder)
        tags = zip(described["words"], arrays["tags"].tolist(), arrays["shares"].tolist(), strict=True)
        return FrequentTags(described["classes"], {word: (tag, share) for word, tag, share in tags}, described["other"])

    def save(self, folder: Path) -> None:
        """Write the model into an existing folder."""
        described = {"classes": self.classes, "words": list(self.tags), "other": self.other}
        tags = np.array([tag for tag, _ in self.tags.values()], dtype=np.int64)
        shares = np.array([share for _, share in self.tags.values()], dtype=np.float64)
        floor_file.save(folder, described, {"tags": tags, "shares": shares})

    def say(self, text: str) -> tuple[list[Entity], float]:
        """Return the entities of a text, and the probability of all its tags together if words are independent."""
        places = np.array(list(entities.words(text)), dtype=np.int32).reshape(-1, 2)
        found = [self.tags.get(text[begin:end], (0, self.other)) for begin, end in places]
        shares: NDArray[np.float64] = np.zeros((len(found), 1 + 2 * self.classes))
        for word, (tag, share) in enumerate(found):
            shares[word, tag] = share
        return entities.decode(places, shares), float(np.prod([share for _, share in found]))
