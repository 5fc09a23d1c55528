"""Routes for the WhatsApp worker and for YClients' webhook."""
