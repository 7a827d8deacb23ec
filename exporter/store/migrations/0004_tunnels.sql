-- How the tunnels of running jobs were when they were last probed; what is past its time is not known any more.
CREATE TABLE tunnel_health (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    tunnel      TEXT NOT NULL,              -- dashboard, ...
    state       TEXT NOT NULL CHECK (state IN ('up', 'refused', 'timeout', 'auth', 'foreign', 'target_down')),
    at          REAL NOT NULL,              -- when the probe ended
    duration_seconds REAL NOT NULL,
    good_until  REAL NOT NULL,
    last_success REAL,
    PRIMARY KEY (site, job_id, tunnel)
) STRICT;
