"""What stops a backup, a check or a restore."""

from app.errors import FrontdeskError


class BackupError(FrontdeskError):
    """The backup, or what was to be done with it, could not be finished."""


class DamagedBackup(BackupError):
    """The backup is not what was written: restore another one (`frontdesk backup list`)."""


class ProgramFailed(BackupError):
    """pg_dump or pg_restore ended with an error."""


class NoSuchBackup(BackupError):
    """There is no such backup."""

    code = "not_found"


class NotEmpty(BackupError):
    """The database to restore into has something in it."""

    code = "conflict"
