"""The report as pages: what is on them, charts and pictures, Markdown and HTML."""
