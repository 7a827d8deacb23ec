"""Campaigns: specs that are launched at times of their own, and what has to hold before each is."""
