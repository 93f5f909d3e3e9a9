"""One run from start to finish: which passes run, which shards are missing, what failed, and the manifest.

Belongs here: resuming, retries, run options, progress and the files that describe a run. Does not belong here: reading
records and decoding images (curate.passes), executing tasks (curate.runners), storing files (curate.storage).
"""
