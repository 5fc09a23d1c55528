"""Keys of Frontdesk's advisory locks. All programs that use a database share its key space."""

from enum import IntEnum, unique


@unique
class AdvisoryLock(IntEnum):
    """Keys of advisory locks (session or transaction level), named after the work that they serialise.

    The bytes of a key spell a word in ASCII, so that an operator recognises the key in pg_locks. Locks of
    one company are not listed here: their keys are computed by PostgreSQL as the hash of a text.
    """

    MIGRATIONS = 0x46726F6E74646573  # "Frontdes"
    TRANSFER_FENCE = 0x46726F6E746631  # "Frontf1"
    TRANSFER_RELAY = 0x46726F6E746632
    TRANSFER_COPY = 0x46726F6E746633
    TRANSFER_SETUP = 0x46726F6E746634
    TRANSFER_BENCH = 0x46726F6E746635
    WHATSAPP_CLEANUP = 0x4664576173686564  # "FdWashed"
