"""The inventory: what environments exist, on which hosts, under which policies.

`models` has the types, `inventory` reads the files, `env_file` renders the application's configuration.
"""
