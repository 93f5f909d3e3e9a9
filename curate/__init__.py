"""Web-scale image-text curation: columns are facts, filters are policy, runners move shards."""

__version__ = "0.1.0"
