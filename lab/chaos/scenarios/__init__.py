"""The scenarios, one module a kind of fault."""
