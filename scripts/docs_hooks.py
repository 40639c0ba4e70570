"""Pages of the documentation that have their source elsewhere."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from pounce.config.reference import reference_markdown
from pounce.metrics.reference import reference_markdown as metrics_markdown

ROOT = Path(__file__).resolve().parent.parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    pages = {
        "reference/configuration.md": reference_markdown(),
        "reference/metrics.md": metrics_markdown(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files
