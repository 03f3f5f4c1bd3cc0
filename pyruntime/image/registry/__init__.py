"""The registry client: names to content over HTTPS (distribution-spec 1.1), and content to names.

    reference -> hosts.py (mirrors, origin, certificates, proxy) -> site.py (one endpoint)
                   site.call: auth.py puts Authorization on, exchange.py tries again and follows redirects, http.py sends
                   through connections of connect.py
    client.py    the protocol's rows; download.py and upload.py go on where a connection broke; referrers.py lists

What holds: credentials reach the host they are for and the token server it names, nothing else, and are in no text;
https never becomes http by an answer; every body is limited; content is the caller's to hash as it streams, documents
are hashed here. Nothing here knows of the store: pull.py and push.py join the two.
"""

from pyruntime.image.registry.client import Fetched, RegistryClient
from pyruntime.image.registry.credentials import ANONYMOUS, ConfigFile, Credentials, from_config_header, from_header
from pyruntime.image.registry.exchange import RetryPolicy
from pyruntime.image.registry.hosts import HostConfig, from_environment

__all__ = ["ANONYMOUS", "ConfigFile", "Credentials", "Fetched", "HostConfig", "RegistryClient", "RetryPolicy",
           "from_config_header", "from_environment", "from_header"]
