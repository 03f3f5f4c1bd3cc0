"""The `pyctr` command: Docker's commands and flags over the engine's API, for pyctrd or any other Docker engine.

    words -> main (which command?) -> words.parse_words by the table in commands.py -> one function per command

A command's function gets a `Call` and talks to the engine through api.client alone; it prints its answer on stdout and
everything else on stderr. Errors of the engine are shown as docker shows them.
"""
