-- A person's or a program's own name for an intention: two launches with the same key are one.
ALTER TABLE submissions ADD COLUMN key TEXT;
CREATE UNIQUE INDEX submissions_by_key ON submissions (key) WHERE key IS NOT NULL AND state != 'absent';
CREATE INDEX submissions_open ON submissions (site, created) WHERE job_id IS NULL AND state != 'absent';

-- Which kinds of request there are is the owner's business.
CREATE TABLE requests_of_any_kind (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    kind        TEXT NOT NULL,
    site        TEXT NOT NULL,
    payload     TEXT NOT NULL,              -- JSON
    state       TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'taken', 'done', 'failed')),
    outcome     TEXT,                       -- JSON
    created     REAL NOT NULL,
    updated     REAL NOT NULL
) STRICT;
INSERT INTO requests_of_any_kind SELECT id, kind, site, payload, state, outcome, created, updated FROM requests;
DROP TABLE requests;
ALTER TABLE requests_of_any_kind RENAME TO requests;
CREATE INDEX requests_open ON requests (state) WHERE state IN ('waiting', 'taken');
