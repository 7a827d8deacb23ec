-- How far a request is while it is carried out, in words for whoever waits for it.
ALTER TABLE requests ADD COLUMN progress TEXT;
