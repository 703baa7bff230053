"""The command line: commands by subject, display, exit codes."""
