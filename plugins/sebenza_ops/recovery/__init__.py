"""Recovery: bringing back what was backed up, and proving that it works."""
