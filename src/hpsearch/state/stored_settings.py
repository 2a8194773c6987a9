"""The settings that a study runs with, from its folder."""

from hpsearch.config import loading
from hpsearch.config.settings import Settings
from hpsearch.state.folder import StudyFolder


def settings_of(folder: StudyFolder) -> Settings:
    """Return the settings of a study. Addresses in them have lost their passwords.

    Raises:
        RequestError: The file is damaged, or a newer version wrote it.
        OSError: There is no such file.
    """
    return loading.from_yaml(folder.settings.read_text(encoding="utf-8"))
