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
