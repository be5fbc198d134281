"""Getting back what was lost: hosts and databases from their backups, the database's primary on another host."""
