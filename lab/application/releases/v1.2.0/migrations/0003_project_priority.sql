-- phase: expand
ALTER TABLE projects ADD COLUMN priority text NOT NULL DEFAULT 'normal';
ALTER TABLE projects ADD CONSTRAINT projects_priority CHECK (priority IN ('low', 'normal', 'urgent')) NOT VALID;
ALTER TABLE projects VALIDATE CONSTRAINT projects_priority;
