"""Docker's objects and their rules over the image store; no HTTP and no command line in here.

`Engine` holds what a daemon has one of: store, transfers, events, settings, journal. The modules images, transfer,
system and events are the rules, functions of an Engine that give plain values with Docker's names; api.server gives
them routes. Failures are exceptions of errors.py; failures.py says which HTTP status each has.
"""
