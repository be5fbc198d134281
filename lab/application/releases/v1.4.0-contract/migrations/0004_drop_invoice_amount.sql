-- phase: contract
-- Every release from v1.4.0 on reads and writes cents only; v1.2.0 and before cannot run after this.
DROP TRIGGER invoices_sync_amount ON invoices;
DROP FUNCTION invoices_sync_amount();
ALTER TABLE invoices ALTER COLUMN amount_cents SET NOT NULL;
ALTER TABLE invoices DROP COLUMN amount;
