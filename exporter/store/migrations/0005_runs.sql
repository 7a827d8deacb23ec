-- What the supervisor of a job says of itself, read from the job's folder.
CREATE TABLE runs (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    phase       TEXT,                       -- the last one that was read
    phase_time  REAL,                       -- when it was entered
    heartbeat   REAL,                       -- when the supervisor last wrote
    ready_time  REAL,                       -- when every node was in the cluster
    ray_version TEXT,
    session_name TEXT,
    outcome     TEXT,                       -- how it ended, in one word
    reason      TEXT,                       -- and in its own words
    exit_code   INTEGER,
    summary     TEXT,                       -- JSON, what it said at its end
    settled     INTEGER NOT NULL DEFAULT 0, -- nothing more will be read
    read        REAL NOT NULL,              -- when it was last read
    PRIMARY KEY (site, job_id),
    FOREIGN KEY (site, job_id) REFERENCES jobs (site, job_id) ON DELETE CASCADE
) STRICT;

-- A job that goes on where another met its time limit belongs to the chain that began with that one.
ALTER TABLE submissions ADD COLUMN chain TEXT REFERENCES submissions (token); -- NULL: the first, or the only one
ALTER TABLE submissions ADD COLUMN link INTEGER NOT NULL DEFAULT 0;           -- how many came before it
ALTER TABLE submissions ADD COLUMN chain_end TEXT;                            -- of the first: why no further job follows
ALTER TABLE submissions ADD COLUMN forced INTEGER NOT NULL DEFAULT 0;         -- launched in spite of what was known of the site
CREATE INDEX submissions_by_chain ON submissions (chain, link) WHERE chain IS NOT NULL;

-- What was sent, by file, without secrets; and what was brought along.
ALTER TABLE submissions ADD COLUMN sent TEXT;                                 -- JSON: name of the file -> its text
ALTER TABLE submissions ADD COLUMN manifest TEXT;                             -- JSON
