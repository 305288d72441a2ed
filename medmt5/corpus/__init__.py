"""From raw files in their owners' formats to a clean corpus: readers, filters, deduplication, shards, a manifest."""
