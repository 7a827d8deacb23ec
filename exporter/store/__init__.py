"""What rayslurm knows, in SQLite: jobs, the journal of submissions, requests, the command budget, counters."""
