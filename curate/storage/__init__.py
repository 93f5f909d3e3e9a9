"""Files on a disk or behind a URL: reading, writing whole, listing, leases, facts and marks. Knows no image and no recipe."""
