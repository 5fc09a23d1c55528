"""The keys of Frontdesk's advisory locks. PostgreSQL shares one key space per database."""

from enum import IntEnum, unique


@unique
class AdvisoryLock(IntEnum):
    """A session or transaction lock of one database, by the work that it serialises.

    Keys spell a word in ASCII, so that an operator recognises them in pg_locks. Locks of one company use
    keys that PostgreSQL hashes from a text.
    """

    MIGRATIONS = 0x46726F6E74646573  # "Frontdes"
    TRANSFER_FENCE = 0x46726F6E746631  # "Frontf1"
    TRANSFER_RELAY = 0x46726F6E746632
    TRANSFER_COPY = 0x46726F6E746633
    TRANSFER_SETUP = 0x46726F6E746634
    TRANSFER_BENCH = 0x46726F6E746635
    WHATSAPP_CLEANUP = 0x4664576173686564  # "FdWashed"
