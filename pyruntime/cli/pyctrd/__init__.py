"""The `pyctrd` command: flags, the lock on the data root, sockets, and the engine's server on top."""
