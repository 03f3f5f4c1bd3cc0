"""Images: references, manifests, the store on disk, registries, layers.

What flows in: references a user typed, bytes of a registry or an archive, layer tars. What flows out: images whose
every byte was checked against its digest, unpacked layers, and configuration for a container. The modules

    digest, media, platform, reference    pure: texts and JSON documents to validated records
    store, index, locks, layers, collect  content on disk, its rows, who may write, what may go
    runtime_config, confinement, history  pure: an image and options to config.json; its steps, newest first
    archive, archive_*                    images in tars and OCI layouts: read whatever tool wrote it, written for all
    importing, changes, commit            a tar, or a container's upper directory, becomes an image; a tree a tar
    bundle, users, inroot                 an image becomes a bundle; names and paths inside a foreign root

need no root and no registry, but for unpacking as more than one's own id. Nothing here is imported by the verbs of the
runtime: the package may use what a daemon may (sqlite3, urllib3), lazily where a caller may not
need it.

Invariants: content is immutable bytes named by their digest and served as received; a document is parsed only below
its size limit; nothing becomes visible before its size and digest were checked and it is on stable storage.
"""
