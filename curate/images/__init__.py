"""Image bytes: headers, decoding by format, perceptual hashes, resizing, thumbnails. Knows nothing of records and shards."""
