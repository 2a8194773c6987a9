"""The tag that each word has most often, and the entities that these make. A served model carries this file."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpsearch.tasks import entities, floor_file
from hpsearch.tasks.entities import Entity


class FrequentTags:
    """Words with their tags."""

    def __init__(self, classes: int, tags: dict[str, tuple[int, float]], other: float) -> None:
        """Take them up.

        Args:
            classes: of entities.
            tags: word: the tag that it has most often, by its place in `entities.tags`, and how often, a share.
            other: the share of words of no entity, for words that are none of these.
        """
        self.classes, self.tags, self.other = classes, tags, other

    @staticmethod
    def load(folder: Path) -> "FrequentTags":
        """What `save` wrote."""
        described, arrays = floor_file.load(folder)
        tags = zip(described["words"], arrays["tags"].tolist(), arrays["shares"].tolist(), strict=True)
        return FrequentTags(described["classes"], {word: (tag, share) for word, tag, share in tags}, described["other"])

    def save(self, folder: Path) -> None:
        """Write it into a folder that is there."""
        described = {"classes": self.classes, "words": list(self.tags), "other": self.other}
        tags = np.array([tag for tag, _ in self.tags.values()], dtype=np.int64)
        shares = np.array([share for _, share in self.tags.values()], dtype=np.float64)
        floor_file.save(folder, described, {"tags": tags, "shares": shares})

    def say(self, text: str) -> tuple[list[Entity], float]:
        """The entities of a text, and the probability of all its tags together, each word taken by itself."""
        places = np.array(list(entities.words(text)), dtype=np.int32).reshape(-1, 2)
        found = [self.tags.get(text[begin:end], (0, self.other)) for begin, end in places]
        shares: NDArray[np.float64] = np.zeros((len(found), 1 + 2 * self.classes))
        for word, (tag, share) in enumerate(found):
            shares[word, tag] = share
        return entities.decode(places, shares), float(np.prod([share for _, share in found]))
