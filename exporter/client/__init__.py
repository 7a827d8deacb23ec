"""Asking a site: one client with budget, deadlines and back-off, over ssh or over a recorded session."""
