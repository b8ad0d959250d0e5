"""The Starlette application: metrics, health, and a page that says where they are."""

from otel_url_monitor.web.app import create_app

__all__ = ["create_app"]
