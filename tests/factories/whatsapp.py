"""Rows of WhatsApp credentials and keys."""

import factory


class WhatsAppAuthRow(factory.DictFactory):
    creds = b"{}"


class WhatsAppKeyRow(factory.DictFactory):
    key_type = "session"
    key_id = factory.Sequence(lambda n: f"7968{n:07}.0")
    value = b"{}"
