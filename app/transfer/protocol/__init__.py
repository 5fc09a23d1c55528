"""State, epochs, fences and change capture: what both sides agree on."""
