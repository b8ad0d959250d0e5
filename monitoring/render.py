"""Writes monitoring/rules from the chart's rules and the thresholds in its values.yaml; needs helm.

Run it after a change of either: `python monitoring/render.py`.
"""  # noqa: INP001 - a script

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CHART = HERE.parent / "helm" / "otel-url-monitor"
HEADER = "# Made by monitoring/render.py from helm/otel-url-monitor: change it there.\n"


def render() -> dict[str, str]:
    """Text of each rules file with the default thresholds, by file name.

    Only the chart's rules and values take part, in a chart of their own: the files need no cluster's settings.
    """
    sources = sorted((CHART / "files" / "rules").glob("*.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        chart = Path(folder)
        (chart / "templates").mkdir()
        (chart / "Chart.yaml").write_text("{apiVersion: v2, name: rules, version: 0.0.0}\n")
        shutil.copy(CHART / "values.yaml", chart)
        for source in sources:
            shutil.copy(source, chart / "templates")
        return {source.name: HEADER + _template(chart, source.name) for source in sources}


def _template(chart: Path, name: str) -> str:
    helm = shutil.which("helm", path=Path(sys.executable).parent) or "helm"
    command = (helm, "template", str(chart), "--show-only", f"templates/{name}")
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603 - no shell
    return rendered.partition("\n")[2].partition("\n")[2].lstrip("\n")  # without helm's "---" and "# Source"


def main() -> int:
    """Write the files, and remove those without a source."""
    files = render()
    folder = HERE / "rules"
    folder.mkdir(exist_ok=True)
    for path in set(folder.glob("*.yaml")) - {folder / name for name in files}:
        path.unlink()
    for name, text in files.items():
        (folder / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
