"""The WhatsApp worker's credentials and keys, as rows of opaque bytes."""

from app.database.merge import Freshness, Target
from app.models import WhatsAppAuth, WhatsAppKey
from app.repositories.base import Repository
from app.schemas import rows as schemas


class WhatsAppAuthRepository(Repository[WhatsAppAuth]):
    """The salon's one row of credentials."""

    model = WhatsAppAuth
    schema = schemas.WHATSAPP_AUTH
    target = Target(WhatsAppAuth, (), Freshness.ALWAYS)


class WhatsAppKeyRepository(Repository[WhatsAppKey]):
    """The salon's Signal keys."""

    model = WhatsAppKey
    schema = schemas.WHATSAPP_KEY
    target = Target(WhatsAppKey, ("key_type", "key_id"), Freshness.ALWAYS)
