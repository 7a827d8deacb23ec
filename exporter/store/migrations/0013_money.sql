-- What a job is allocated, or asks for, as queue or accounting last told: JSON, TRES by name, memory in bytes.
ALTER TABLE jobs ADD COLUMN tres TEXT;
