"""What runs over a shard: scan, fetch, judge, pack, and the evaluation that they share. Knows no run and no engine."""
