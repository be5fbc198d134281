"""Getting back what was lost: the database's primary on another host, restores, disaster recovery."""
