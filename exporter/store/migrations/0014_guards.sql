-- How balances were when they were read: of the last days each change, of older ones the last of each day.
CREATE TABLE balance_readings (
    provider    TEXT NOT NULL,
    project     TEXT NOT NULL,
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    at          REAL NOT NULL,              -- by this machine's clock
    used        REAL NOT NULL,
    granted     REAL,
    PRIMARY KEY (provider, project, kind, unit, at)
) STRICT;

-- What else is told of a project.
ALTER TABLE projects ADD COLUMN start_time INTEGER;
ALTER TABLE projects ADD COLUMN status TEXT;
