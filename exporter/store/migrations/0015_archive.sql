-- What ended jobs left behind on its way to the archive. A row outlives what else is known of the job.
CREATE TABLE archive_jobs (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    end_time    INTEGER NOT NULL,           -- of the attempt that is kept; a later end is kept again
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'spooled', 'kept', 'given_up')),
    objects     INTEGER NOT NULL DEFAULT 1, -- how many are on their way
    tries       INTEGER NOT NULL DEFAULT 0, -- in vain, in this state
    after       REAL NOT NULL DEFAULT 0,    -- not to be tried before
    error       TEXT,                       -- the last one
    key         TEXT,                       -- of its manifest, once it is kept
    since       REAL NOT NULL,              -- when it was queued
    updated     REAL NOT NULL,
    PRIMARY KEY (site, job_id)
) STRICT;
CREATE INDEX archive_jobs_open ON archive_jobs (state, since) WHERE state != 'kept';
