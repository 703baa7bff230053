"""`python -m crnn_search`: the command line, where it is not installed as a program."""

from crnn_search.cli.app import main

main()
