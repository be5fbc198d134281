"""The outside systems that procedures talk to, one module each."""
