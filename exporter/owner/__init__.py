"""Who may act: the owner of the sites, one worker thread for each, and what people ask of it."""
