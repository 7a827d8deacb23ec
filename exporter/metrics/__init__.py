"""What stands on /metrics: the catalogue, the collectors that read the store, and the rendering."""
