"""The WhatsApp session store: what a Baileys worker needs to stay paired, kept as opaque values."""
