"""Settings from files, one file per setting, the form in which containers and systemd provide secrets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import SecretsSettingsSource


@dataclass(frozen=True)
class UnreadableSecret:
    """Value of a setting whose file exists but is unreadable or empty. Validation reports the reason."""

    reason: str


class SecretFiles(SecretsSettingsSource):
    """Source of settings from files that are named like the settings.

    Unlike the base class, it does not silently ignore directories and broken links: the service would then
    run without its token.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return the text of the file, stripped, or an UnreadableSecret, or None if there is no file."""
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
