"""Entry points: the command line, the script that a Ray job runs, and recipes."""
