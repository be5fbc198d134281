"""The web page inside Airflow's UI: environments at a glance, and the evidence of every run."""
