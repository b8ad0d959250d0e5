"""Export over OTLP (http/protobuf): what the `OTEL_*` variables ask for, and the stock exporters made to keep to it."""

from otel_url_monitor.otlp.environment import (
    Endpoint,
    Environment,
    EnvironmentFaultsError,
    read_environment,
    shield,
)
from otel_url_monitor.otlp.losses import Losses

__all__ = ["Endpoint", "Environment", "EnvironmentFaultsError", "Losses", "read_environment", "shield"]
