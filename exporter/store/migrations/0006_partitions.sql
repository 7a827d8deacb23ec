-- The partitions of a site as its own Slurm last described them. NULL: no limit is stated, or it isn't known.
CREATE TABLE partitions (
    site        TEXT NOT NULL,
    name        TEXT NOT NULL,
    state       TEXT,
    max_time_seconds REAL,
    min_nodes   INTEGER,
    max_nodes   INTEGER,
    nodes       INTEGER,
    max_cpus_per_node INTEGER,
    max_memory_bytes_per_node INTEGER,
    max_gpus_per_node INTEGER,
    whole_nodes INTEGER,
    read        REAL NOT NULL,              -- when the site was asked
    PRIMARY KEY (site, name)
) STRICT;
