"""The other end of the API: where the daemon is, HTTP over its socket, and starting it on demand. Imports no room."""
