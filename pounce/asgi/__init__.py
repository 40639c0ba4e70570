"""ASGI: what the application sees."""
