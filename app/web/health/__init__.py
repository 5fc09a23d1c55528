"""The health API, its checks, metrics and OpenAPI description."""
