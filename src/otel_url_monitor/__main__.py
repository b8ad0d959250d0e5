"""`python -m otel_url_monitor`."""

from otel_url_monitor.cli import main

if __name__ == "__main__":
    main()
