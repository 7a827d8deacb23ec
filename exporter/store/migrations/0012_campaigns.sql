-- Campaigns as their files say, and what became of each time of their schedules.
CREATE TABLE campaigns (
    name        TEXT PRIMARY KEY,
    site        TEXT NOT NULL,
    file        TEXT NOT NULL,
    text        TEXT NOT NULL,              -- of the file, as it was last good
    schedule    TEXT NOT NULL,              -- in words
    paused      INTEGER NOT NULL DEFAULT 0, -- by its file
    held        INTEGER NOT NULL DEFAULT 0, -- by `rayslurm campaigns pause`
    present     INTEGER NOT NULL DEFAULT 1, -- whether its file is there
    created     REAL NOT NULL,
    loaded      REAL NOT NULL,              -- when its file was last read anew
    decided     REAL NOT NULL,              -- up to when its times are decided
    next_due    REAL                        -- its next time; NULL: none
) STRICT;

-- How the last reading of all files went; one row.
CREATE TABLE campaign_reload (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    success     INTEGER NOT NULL,
    at          REAL NOT NULL,              -- when it last went well
    errors      TEXT NOT NULL               -- JSON: path -> what is wrong
) STRICT;

-- One row a time of a schedule, or a launch by hand.
CREATE TABLE campaign_runs (
    campaign    TEXT NOT NULL,
    due         REAL NOT NULL,
    site        TEXT NOT NULL,
    manual      INTEGER NOT NULL DEFAULT 0,
    state       TEXT NOT NULL CHECK (
        state IN ('waiting', 'running', 'succeeded', 'failed', 'cancelled', 'refused', 'missed')
    ),
    reason      TEXT,
    file        TEXT NOT NULL,
    text        TEXT NOT NULL,              -- the file as it was then
    created     REAL NOT NULL,
    started     REAL,
    ended       REAL,
    PRIMARY KEY (campaign, due)
) STRICT;
CREATE INDEX campaign_runs_open ON campaign_runs (site, campaign, due) WHERE state IN ('waiting', 'running');

-- The jobs of a run: one, or one for each combination of its matrix.
CREATE TABLE campaign_jobs (
    campaign    TEXT NOT NULL,
    due         REAL NOT NULL,
    point       INTEGER NOT NULL,
    parameters  TEXT NOT NULL,              -- JSON
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'launched', 'succeeded', 'failed', 'cancelled', 'refused')),
    attempt     INTEGER NOT NULL DEFAULT 0, -- how often it was launched again
    tries       INTEGER NOT NULL DEFAULT 0, -- how often in a row a launch came to nothing
    not_before  REAL NOT NULL DEFAULT 0,
    token       TEXT,                       -- of its latest submission
    reason      TEXT,
    PRIMARY KEY (campaign, due, point),
    FOREIGN KEY (campaign, due) REFERENCES campaign_runs (campaign, due) ON DELETE CASCADE
) STRICT;

-- Nodes that a site has set aside.
CREATE TABLE reservations (
    site        TEXT NOT NULL,
    name        TEXT NOT NULL,
    start_time  INTEGER,
    end_time    INTEGER,
    nodes       INTEGER,
    partition   TEXT,
    flags       TEXT NOT NULL,              -- JSON
    read        REAL NOT NULL,
    PRIMARY KEY (site, name)
) STRICT;
