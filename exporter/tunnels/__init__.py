"""The tunnels from the jobs to this machine: whether each lives, as seen from here. No site is asked for it."""
