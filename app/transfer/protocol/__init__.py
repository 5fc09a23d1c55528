"""The transfer protocol: side state, epochs, fences, change capture and the tables that it covers."""
