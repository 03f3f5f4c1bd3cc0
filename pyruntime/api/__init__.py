"""The Docker Engine API: `server` answers it, `client` asks it; the two share nothing but the protocol."""
