"""Sockets and TLS contexts."""
