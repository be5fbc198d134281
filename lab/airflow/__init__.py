"""The local Airflow of the lab: start it, talk to it, watch its processes."""
