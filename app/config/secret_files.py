"""Settings out of files, one for each, as containers and systemd hand secrets over."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import SecretsSettingsSource


@dataclass(frozen=True)
class UnreadableSecret:
    """What stands for the value of a file that is there and says nothing; for validation to name."""

    reason: str


class SecretFiles(SecretsSettingsSource):
    """Files named as the settings.

    The library passes over a directory, a broken link or a link that leads elsewhere: without a word the
    service would run without its token.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The file's text without blanks around it, None where there is no file, or Unreadable."""
        path = self.find_case_path(Path(str(self.secrets_dir)), field_name, case_sensitive=False)
        return path and _read(path), field_name, False


def _read(path: Path) -> str | UnreadableSecret:
    try:
        text = path.read_text("utf-8-sig").strip()
    except OSError as error:
        return UnreadableSecret(f"its file in SECRETS_DIR cannot be read ({error.strerror})")
    except UnicodeDecodeError:
        return UnreadableSecret("its file in SECRETS_DIR is not text in UTF-8")
    return text or UnreadableSecret("its file in SECRETS_DIR is empty")
