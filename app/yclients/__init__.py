"""What YClients sends: payloads to rows, files of payloads into the database."""
