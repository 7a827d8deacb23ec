-- Finished jobs whose report the site has still to be asked for.
CREATE TABLE awaited_reports (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    tries       INTEGER NOT NULL DEFAULT 0,
    after       REAL NOT NULL DEFAULT 0,    -- not to be asked for before
    PRIMARY KEY (site, job_id),
    FOREIGN KEY (site, job_id) REFERENCES jobs (site, job_id) ON DELETE CASCADE
) STRICT;

-- What a job cost, by source; the final one stands in the lifetime counters.
CREATE TABLE bills (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    source      TEXT NOT NULL CHECK (source IN ('seff', 'formula')),
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    units       REAL NOT NULL,
    project     TEXT,
    final       INTEGER NOT NULL,
    created     REAL NOT NULL,
    PRIMARY KEY (site, job_id, source),
    FOREIGN KEY (site, job_id) REFERENCES jobs (site, job_id) ON DELETE CASCADE
) STRICT;

-- What projects may use and have used. A balance belongs to a provider, whichever of its sites told it.
CREATE TABLE projects (
    provider    TEXT NOT NULL,
    project     TEXT NOT NULL,
    accessible  INTEGER NOT NULL,
    end_time    INTEGER,
    last_grant_time INTEGER,
    read        REAL NOT NULL,
    PRIMARY KEY (provider, project)
) STRICT;
CREATE TABLE balances (
    provider    TEXT NOT NULL,
    project     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    used        REAL,
    granted     REAL,
    remaining   REAL,
    updated_time INTEGER,
    PRIMARY KEY (provider, project, kind, unit),
    FOREIGN KEY (provider, project) REFERENCES projects (provider, project) ON DELETE CASCADE
) STRICT;

-- Everything else a probe learns, by metric; each run of a probe replaces what it said before.
CREATE TABLE samples (
    site        TEXT NOT NULL,
    probe       TEXT NOT NULL,
    name        TEXT NOT NULL,              -- the metric's, without prefix
    labels      TEXT NOT NULL,              -- JSON object, keys sorted; without the site
    value       REAL NOT NULL,
    at          REAL NOT NULL,
    PRIMARY KEY (site, probe, name, labels)
) STRICT;

-- One word for why a probe failed.
ALTER TABLE probe_runs ADD COLUMN reason TEXT;
