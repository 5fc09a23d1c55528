"""Errors of backups, checks and restores. A class docstring is the message of an error raised without one."""

from app.errors import FrontdeskError


class BackupError(FrontdeskError):
    """The backup, check or restore could not be finished."""


class DamagedBackup(BackupError):
    """The backup is damaged: restore another one (`frontdesk backup list` shows them)."""


class ProgramFailed(BackupError):
    """pg_dump or pg_restore exited with an error."""


class NoSuchBackup(BackupError):
    """There is no such backup."""

    code = "not_found"


class NotEmpty(BackupError):
    """The database to restore into is not empty."""

    code = "conflict"
