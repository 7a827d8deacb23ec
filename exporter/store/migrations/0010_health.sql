-- How the Ray clusters of running jobs were when their dashboards were last asked; past its time that is not known any
-- more, but since when a cluster is idle is kept.
CREATE TABLE ray_clusters (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    at          REAL NOT NULL,              -- when it was asked
    good_until  REAL NOT NULL,
    nodes       TEXT NOT NULL,              -- JSON: state -> how many; empty: not known
    capacity    TEXT NOT NULL,              -- JSON: resource -> what there is
    used        TEXT NOT NULL,              -- JSON: resource -> what is in use
    gcs_up      INTEGER NOT NULL CHECK (gcs_up IN (0, 1)),
    idle_since  REAL,                       -- since when no CPU and no GPU is in use; NULL: one is, or it isn't known
    PRIMARY KEY (site, job_id)
) STRICT;

-- Where the kernel of this machine says that the ports of tunnels are listened on.
CREATE TABLE tunnel_exposure (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    tunnel      TEXT NOT NULL,
    addresses   TEXT NOT NULL,              -- those that others can reach, separated by commas
    exposed     INTEGER NOT NULL CHECK (exposed IN (0, 1)),
    good_until  REAL NOT NULL,
    PRIMARY KEY (site, job_id, tunnel)
) STRICT;

-- The last failures of each tunnel's probe, with what was said; the same one again and again is one row.
CREATE TABLE tunnel_failures (
    id          INTEGER PRIMARY KEY,
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    tunnel      TEXT NOT NULL,              -- or 'ray': what the dashboard was asked of the cluster
    state       TEXT NOT NULL,
    first_at    REAL NOT NULL,
    last_at     REAL NOT NULL,
    times       INTEGER NOT NULL,
    said        TEXT NOT NULL               -- the last time: at most 500 bytes, no secret
) STRICT;
CREATE INDEX tunnel_failures_by_tunnel ON tunnel_failures (site, job_id, tunnel, id);
