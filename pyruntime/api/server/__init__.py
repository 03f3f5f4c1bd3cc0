"""HTTP routes and wire shapes of the Docker Engine API, on h11 and asyncio. No rules of objects are here.

    bytes -> connection.Connection (h11) -> Request -> router.Router -> handler(engine, request) -> Answer | Stream

The event loop only moves bytes and runs handlers marked `inline`, which may not block (ping). Every other handler is
called in a thread of a pool and may block: it reads the request's body and writes a Stream through the loop, which
holds it back when the client is slow and tells it when the client has gone (`Request.gone`, ClientGone). Handlers of
one connection run one after the other. Facts of the protocol: contract engine-api 1 and 2.
"""
