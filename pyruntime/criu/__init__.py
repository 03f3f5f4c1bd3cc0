"""criu, driven through its RPC: options in, notifications on the way, one answer.

`wire` encodes and decodes the few messages of criu's rpc.proto, `client` starts `criu swrk` on one end of a socket pair
and speaks with it. The room knows criu and no containers: what to dump and where is lifecycle's. RPC and not the command
line, because only RPC has notifications (they are the barriers of a restore), hands over a terminal's master end and
makes the restored init our child (rst_sibling).
"""
