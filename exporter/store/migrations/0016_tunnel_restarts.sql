-- What supervisors say of their tunnels, nodes and listeners; NULL: not known.
ALTER TABLE runs ADD COLUMN node_names TEXT;     -- JSON: names, in the order of the tunnels metrics-N
ALTER TABLE runs ADD COLUMN tunnels TEXT;        -- JSON: of each tunnel name, restarts of its ssh, reason of the last
ALTER TABLE runs ADD COLUMN open_listeners TEXT; -- JSON: node, program, address, ports that ask for no token

-- By which socket the port of a running job's tunnel was last listened on here: another one is another ssh.
CREATE TABLE tunnel_sockets (
    site        TEXT NOT NULL,
    job_id      TEXT NOT NULL,
    tunnel      TEXT NOT NULL,
    sockets     TEXT NOT NULL,              -- the kernel's numbers
    changed     REAL,                       -- when it was first seen to be another; NULL: it is the first
    PRIMARY KEY (site, job_id, tunnel)
) STRICT;
