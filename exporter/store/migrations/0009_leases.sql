-- By which our lines in files of this machine are told from those of another rayslurm.
CREATE TABLE instance (name TEXT PRIMARY KEY) STRICT;
INSERT INTO instance VALUES (lower(hex(randomblob(4))));

-- The keys by which jobs open their tunnels: the public half, and until when the account on this machine takes it.
CREATE TABLE job_keys (
    token       TEXT PRIMARY KEY REFERENCES submissions (token),
    public      TEXT NOT NULL,
    expires     REAL NOT NULL
) STRICT;

-- Which ports of this machine belong to which job's tunnels. A lease goes when its job has ended and nobody listens there.
CREATE TABLE leases (
    port        INTEGER PRIMARY KEY,
    tunnel      TEXT NOT NULL,              -- dashboard, client, serve, metrics-0, ...
    token       TEXT NOT NULL REFERENCES submissions (token),
    created     REAL NOT NULL,
    UNIQUE (token, tunnel)
) STRICT;
INSERT INTO leases (port, tunnel, token, created)
    SELECT s.dashboard_port, 'dashboard', s.token, s.created FROM submissions s LEFT JOIN tracked t ON t.token = s.token
    WHERE s.dashboard_port IS NOT NULL AND s.state != 'absent' AND coalesce(t.done, 0) = 0;
