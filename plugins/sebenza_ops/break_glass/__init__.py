"""Running an emergency procedure without any Airflow service: the same DAG, in a process of its own, at a terminal."""
