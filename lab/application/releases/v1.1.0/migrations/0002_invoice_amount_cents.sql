-- phase: expand
-- Amounts become whole cents. Both columns live side by side and a trigger keeps them equal, whichever release writes.
ALTER TABLE invoices ADD COLUMN amount_cents bigint;

CREATE FUNCTION invoices_sync_amount() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    NEW.amount_cents := coalesce(NEW.amount_cents, round(NEW.amount * 100));
    NEW.amount := coalesce(NEW.amount, NEW.amount_cents / 100.0);
  ELSIF NEW.amount_cents IS DISTINCT FROM OLD.amount_cents THEN
    NEW.amount := NEW.amount_cents / 100.0;
  ELSIF NEW.amount IS DISTINCT FROM OLD.amount THEN
    NEW.amount_cents := round(NEW.amount * 100);
  END IF;
  RETURN NEW;
END
$$;

CREATE TRIGGER invoices_sync_amount BEFORE INSERT OR UPDATE ON invoices
  FOR EACH ROW EXECUTE FUNCTION invoices_sync_amount();

UPDATE invoices SET amount_cents = round(amount * 100) WHERE amount_cents IS NULL;
