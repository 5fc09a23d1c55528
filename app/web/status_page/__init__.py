"""The status page, its charts and history."""
