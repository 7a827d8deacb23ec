-- Times are UTC epoch seconds.

-- The journal: one row an intention to launch, on disk before anything leaves this machine.
CREATE TABLE submissions (
    token       TEXT PRIMARY KEY,
    site        TEXT NOT NULL,
    campaign    TEXT NOT NULL DEFAULT '',
    name        TEXT NOT NULL,
    spec        TEXT NOT NULL,              -- JSON, as understood
    run_dir     TEXT NOT NULL,
    dashboard_port INTEGER,                 -- on this machine
    state       TEXT NOT NULL CHECK (state IN ('intended', 'submitting', 'submitted', 'unknown', 'adopted', 'absent')),
    job_id      TEXT,
    error       TEXT,
    created     REAL NOT NULL,
    updated     REAL NOT NULL
) STRICT;
CREATE INDEX submissions_by_job ON submissions (site, job_id);

-- The ids that are followed: a job, or all tasks of an array.
CREATE TABLE tracked (
    site        TEXT NOT NULL,
    root_id     TEXT NOT NULL,
    campaign    TEXT NOT NULL DEFAULT '',
    token       TEXT REFERENCES submissions (token),
    since       REAL NOT NULL,
    done        INTEGER NOT NULL DEFAULT 0, -- every job of it has its final record
    sacct_tries INTEGER NOT NULL DEFAULT 0, -- in a row, without a final record
    sacct_after REAL NOT NULL DEFAULT 0,    -- not to be asked for before
    PRIMARY KEY (site, root_id)
) STRICT;

-- What is known about each job (of an array: each task).
CREATE TABLE jobs (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    root_id     TEXT NOT NULL,
    job_name    TEXT,
    user        TEXT,
    project     TEXT,
    partition   TEXT,
    campaign    TEXT NOT NULL DEFAULT '',
    state       TEXT NOT NULL,              -- base state in lower case, or unknown
    state_since REAL NOT NULL,
    pending_reason TEXT,
    submit_time INTEGER,
    expected_start_time INTEGER,
    start_time  INTEGER,
    end_time    INTEGER,
    elapsed_seconds REAL,
    time_limit_seconds REAL,
    exit_code   INTEGER,
    signal      INTEGER,
    restarts    INTEGER,
    nodes       INTEGER,
    cpus        INTEGER,
    gpus        INTEGER,
    node_list   TEXT,
    final       INTEGER NOT NULL DEFAULT 0, -- accounting has said the last word
    counted     INTEGER NOT NULL DEFAULT 0, -- stands in the lifetime counters
    seen        REAL NOT NULL,              -- when an answer last named it
    PRIMARY KEY (site, job_id),
    FOREIGN KEY (site, root_id) REFERENCES tracked (site, root_id)
) STRICT;
CREATE INDEX jobs_by_root ON jobs (site, root_id);
CREATE INDEX jobs_finished ON jobs (final, end_time);
CREATE INDEX tracked_open ON tracked (site, since) WHERE done = 0;

-- How well a finished job used what it had, by source.
CREATE TABLE reports (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    source      TEXT NOT NULL CHECK (source IN ('seff', 'sacct', 'ray')),
    cpu_used_seconds REAL,
    cpu_allocated_seconds REAL,
    memory_peak_bytes REAL,
    memory_allocated_bytes REAL,
    cpu_efficiency_ratio REAL,
    memory_efficiency_ratio REAL,
    gpu_efficiency_ratio REAL,
    walltime_efficiency_ratio REAL,
    average_cpu_frequency_hertz REAL,
    average_disk_read_bytes REAL,
    average_disk_write_bytes REAL,
    energy_joules REAL,
    created     REAL NOT NULL,
    PRIMARY KEY (site, job_id, source),
    FOREIGN KEY (site, job_id) REFERENCES jobs (site, job_id) ON DELETE CASCADE
) STRICT;

-- What people ask of the owner of the sites.
CREATE TABLE requests (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    kind        TEXT NOT NULL CHECK (kind IN ('launch', 'cancel', 'track')),
    site        TEXT NOT NULL,
    payload     TEXT NOT NULL,              -- JSON
    state       TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'taken', 'done', 'failed')),
    outcome     TEXT,                       -- JSON
    created     REAL NOT NULL,
    updated     REAL NOT NULL
) STRICT;
CREATE INDEX requests_open ON requests (state) WHERE state IN ('waiting', 'taken');

-- The command budget: what was sent to each site in the last hour.
CREATE TABLE commands (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    site        TEXT NOT NULL,
    command     TEXT NOT NULL,
    at          REAL NOT NULL,
    outcome     TEXT                        -- NULL: under way, or its process died
) STRICT;
CREATE INDEX commands_by_time ON commands (site, at);

-- Logins that a site refused: it is not tried again before, whichever process would, unless the credentials change.
CREATE TABLE refusals (
    site        TEXT PRIMARY KEY,
    until       REAL NOT NULL,
    credentials TEXT NOT NULL,
    reason      TEXT NOT NULL
) STRICT;

-- Lifetime counters.
CREATE TABLE counters (
    name        TEXT NOT NULL,
    labels      TEXT NOT NULL,              -- JSON object, keys sorted
    value       REAL NOT NULL,
    PRIMARY KEY (name, labels)
) STRICT;

-- The last run of each probe, and its last success.
CREATE TABLE probe_runs (
    site        TEXT NOT NULL,
    probe       TEXT NOT NULL,
    at          REAL NOT NULL,
    success     INTEGER NOT NULL,
    duration_seconds REAL NOT NULL,
    last_success REAL,
    error       TEXT,
    PRIMARY KEY (site, probe)
) STRICT;

-- What the site printed, each text once, so that a number can be traced to it.
CREATE TABLE raw_outputs (
    sha256      TEXT NOT NULL,
    site        TEXT NOT NULL,
    source      TEXT NOT NULL,              -- squeue, sacct, ...
    text        TEXT NOT NULL,
    first_seen  REAL NOT NULL,
    last_seen   REAL NOT NULL,
    PRIMARY KEY (site, source, sha256)
) STRICT;
CREATE INDEX raw_outputs_by_age ON raw_outputs (last_seen);
