"""Everything that is known of one job, gathered from the store with sources and ages. Asks nobody."""
