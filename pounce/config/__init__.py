"""The configuration: every option declared once, in `server_config`."""

from pounce.config.server_config import OPTIONS, ResolvedConfig, ServerConfig, resolve_config

__all__ = ["OPTIONS", "ResolvedConfig", "ServerConfig", "resolve_config"]
