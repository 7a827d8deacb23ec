-- What a job is allocated, or asks for while it waits, as the queue last told; and as accounting did at its end. JSON, TRES
-- by name, memory in bytes.
ALTER TABLE jobs ADD COLUMN tres TEXT;
ALTER TABLE jobs ADD COLUMN accounted_tres TEXT;

-- What a job cost, by source; the final one stands in the lifetime counters. `sacct`: Slurm's billing TRES times hours.
CREATE TABLE bills_by_any_source (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    source      TEXT NOT NULL CHECK (source IN ('seff', 'formula', 'sacct')),
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    units       REAL NOT NULL,
    project     TEXT,
    final       INTEGER NOT NULL,
    created     REAL NOT NULL,
    raw_sha256  TEXT,                       -- of the text that it was read from; see raw_outputs
    PRIMARY KEY (site, job_id, source),
    FOREIGN KEY (site, job_id) REFERENCES jobs (site, job_id) ON DELETE CASCADE
) STRICT;
INSERT INTO bills_by_any_source SELECT site, job_id, source, kind, unit, units, project, final, created, NULL FROM bills;
DROP TABLE bills;
ALTER TABLE bills_by_any_source RENAME TO bills;

-- Every final bill, for good: it outlives what else is known of the job. A job that ran again after its bill has one row.
CREATE TABLE ledger (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    token       TEXT NOT NULL,              -- of the submission; empty where it was submitted by hand
    job_name    TEXT,
    partition   TEXT,
    project     TEXT,                       -- who pays
    campaign    TEXT NOT NULL,
    end_time    INTEGER,
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    units       REAL NOT NULL,
    source      TEXT NOT NULL,
    raw_sha256  TEXT,                       -- of the text that it was read from
    entered     REAL NOT NULL,              -- when it was written here
    PRIMARY KEY (site, job_id, token)
) STRICT;
CREATE INDEX ledger_by_end ON ledger (end_time);
INSERT INTO ledger
    SELECT j.site, j.job_id, coalesce(t.token, ''), j.job_name, j.partition, coalesce(b.project, j.project), j.campaign,
        j.end_time, b.kind, b.unit, b.units, b.source, NULL, b.created
    FROM bills b JOIN jobs j ON j.site = b.site AND j.job_id = b.job_id
    JOIN tracked t ON t.site = j.site AND t.root_id = j.root_id WHERE b.final = 1;

-- What unfinished jobs cost by what the queue last told, until their final bill is there.
CREATE TABLE estimates (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    source      TEXT NOT NULL CHECK (source IN ('formula', 'squeue')),
    rule        TEXT NOT NULL,              -- and where it was read, for people
    units_per_hour REAL NOT NULL,
    limit_units REAL,                       -- of this attempt; NULL: it has no limit, or that isn't known
    start_time  INTEGER,                    -- of this attempt; NULL: it waits
    attempt_units REAL NOT NULL,            -- so far
    attempts    INTEGER NOT NULL,           -- earlier ones that were seen
    earlier_units REAL NOT NULL,            -- what they cost
    restarts    INTEGER NOT NULL,           -- earlier ones that there were
    at          REAL NOT NULL,              -- when the queue told
    PRIMARY KEY (site, job_id),
    FOREIGN KEY (site, job_id) REFERENCES jobs (site, job_id) ON DELETE CASCADE
) STRICT;

-- Estimates that were not what the job cost in the end.
CREATE TABLE mismatches (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    estimated   REAL NOT NULL,
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    billed      REAL NOT NULL,
    billed_kind TEXT NOT NULL,
    billed_unit TEXT NOT NULL,
    reason      TEXT NOT NULL,              -- for people
    at          REAL NOT NULL,
    PRIMARY KEY (site, job_id),
    FOREIGN KEY (site, job_id) REFERENCES jobs (site, job_id) ON DELETE CASCADE
) STRICT;

-- What projects had used, each time that the provider had reckoned anew.
CREATE TABLE balance_history (
    provider    TEXT NOT NULL,
    project     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    reckoned    REAL NOT NULL,              -- when the provider had reckoned it, by its clock
    used        REAL NOT NULL,
    whole       INTEGER NOT NULL,           -- it was printed in whole units
    PRIMARY KEY (provider, project, kind, unit, reckoned)
) STRICT;

-- By how much that rose over the latest window, and how much of it jobs cost that are followed here.
CREATE TABLE differences (
    provider    TEXT NOT NULL,
    project     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    begin       REAL NOT NULL,
    end         REAL NOT NULL,
    units       REAL NOT NULL,
    ours        REAL,                       -- NULL: of a job in it, it isn't known what it cost
    share       REAL CHECK (share BETWEEN 0 AND 1), -- of ours in it; NULL: nothing was used, or ours isn't known
    PRIMARY KEY (provider, project, kind, unit)
) STRICT;

-- What a project's balance says of a job that was alone in its window.
CREATE TABLE second_opinions (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    provider    TEXT NOT NULL,
    project     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    begin       REAL NOT NULL,
    end         REAL NOT NULL,
    units       REAL NOT NULL,              -- by how much the balance rose
    billed      REAL NOT NULL,
    words       TEXT NOT NULL,              -- what to think of it, for people
    PRIMARY KEY (site, job_id),
    FOREIGN KEY (site, job_id) REFERENCES jobs (site, job_id) ON DELETE CASCADE
) STRICT;
