"""The requests of the WhatsApp worker and YClients' webhook."""
