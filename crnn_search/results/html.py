"""The report as one HTML file that needs no other."""

from __future__ import annotations

import base64
import html

from markdown_it import MarkdownIt

from crnn_search.results.words import PLOTS
from crnn_search.storage.run_folder import RunFolder

STYLE = """
:root { color-scheme: light dark; --line: #ccc; --soft: #f3f3f3; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --soft: #222; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; }
pre { background: var(--soft); padding: .8rem; overflow-x: auto; }
code { font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere; }
img { max-width: 100%; background: white; border-radius: 4px; }
"""


def to_html(markdown: str, run: RunFolder) -> str:
    """A run's report in Markdown as an HTML page that contains its plots."""
    body = MarkdownIt("js-default").render(markdown)
    for name in PLOTS:
        if f'src="plots/{name}"' in body:
            data = base64.b64encode((run.plots / name).read_bytes()).decode()
            body = body.replace(f'src="plots/{name}"', f'src="data:image/png;base64,{data}"')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>crnn-search report: {html.escape(run.name)}</title>\n"
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
