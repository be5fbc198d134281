"""docker-compose.yaml tried for real: built, booted, used, broken, on a container engine (`make compose-test`)."""
