-- When a running job was seen to be of no use, and in what way. Each row is a time without a gap in what was seen.
CREATE TABLE spells (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    condition   TEXT NOT NULL CHECK (condition IN ('never_ready', 'tunnel_down', 'idle')),
    begin       REAL NOT NULL,
    until       REAL NOT NULL,              -- when it was last seen
    open        INTEGER NOT NULL,           -- whether the latest look saw it
    PRIMARY KEY (site, job_id, condition, begin),
    FOREIGN KEY (site, job_id) REFERENCES jobs (site, job_id) ON DELETE CASCADE
) STRICT;
CREATE INDEX spells_open ON spells (site) WHERE open = 1;

-- What followed, by what a job's spec says. A row of a cancel stays, so that it is known why the job ended.
CREATE TABLE consequences (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    condition   TEXT NOT NULL CHECK (condition IN ('never_ready', 'tunnel_down', 'idle', 'over_cap')),
    state       TEXT NOT NULL CHECK (state IN ('reported', 'cancelling', 'cancelled')),
    reason      TEXT NOT NULL,              -- for people
    at          REAL NOT NULL,
    PRIMARY KEY (site, job_id, condition),
    FOREIGN KEY (site, job_id) REFERENCES jobs (site, job_id) ON DELETE CASCADE
) STRICT;

-- What of an ended job's time was of no use, and what that cost: reckoned once, with three rows a job.
CREATE TABLE waste (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    reason      TEXT NOT NULL CHECK (reason IN ('never_ready', 'tunnel_down', 'idle')),
    seconds     REAL,                       -- NULL: not known
    units       REAL,                       -- NULL: not known; else in the lifetime counters
    PRIMARY KEY (site, job_id, reason),
    FOREIGN KEY (site, job_id) REFERENCES jobs (site, job_id) ON DELETE CASCADE
) STRICT;
