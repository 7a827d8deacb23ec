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

-- What a launch was priced at its time limit, written with its journal row: held until its bill is there.
CREATE TABLE holds (
    token       TEXT PRIMARY KEY REFERENCES submissions (token),
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    units       REAL NOT NULL,
    run         TEXT NOT NULL DEFAULT '',   -- which run of its campaign
    budget      TEXT,                       -- JSON, by which it was launched: limits by period, and the time zone
    over        INTEGER NOT NULL DEFAULT 0  -- a person launched it over a budget, a floor or its cap
) STRICT;
CREATE INDEX submissions_by_campaign ON submissions (campaign, created) WHERE campaign != '';

-- How the budgets of campaigns stand, as last reckoned; would_overdraw NULL: not known, or no run is to come.
CREATE TABLE campaign_budgets (
    campaign    TEXT NOT NULL,
    site        TEXT NOT NULL,
    period      TEXT NOT NULL CHECK (period IN ('run', 'week', 'month')),
    kind        TEXT NOT NULL,
    unit        TEXT NOT NULL,
    units       REAL NOT NULL,              -- the limit
    remaining   REAL NOT NULL,
    at          REAL NOT NULL,
    PRIMARY KEY (campaign, period)
) STRICT;
CREATE TABLE campaign_overdraws (
    campaign    TEXT PRIMARY KEY,
    site        TEXT NOT NULL,
    would       INTEGER NOT NULL CHECK (would IN (0, 1)),
    reason      TEXT NOT NULL,              -- for people; empty where it would not
    at          REAL NOT NULL
) STRICT;
