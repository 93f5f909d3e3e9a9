"""Image bytes: headers, decoding by format, perceptual hashes, resizing, thumbnails. Knows no record and no shard."""
