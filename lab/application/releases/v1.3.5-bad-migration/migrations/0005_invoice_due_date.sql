-- phase: expand
-- Bad on purpose: the last statement meets rows that break the rule, after the first ones went well.
ALTER TABLE invoices ADD COLUMN due_on date;
UPDATE invoices SET due_on = created_at::date + 30;
ALTER TABLE invoices ADD CONSTRAINT invoices_minimum CHECK (amount_cents >= 500);
