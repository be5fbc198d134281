"""The load generator: real clients of the application, and a report that hides no failed request.

Why not autocannon: its client does not verify certificates, and connects again
without a word when the server ends a connection, so that a request cut in flight counts nowhere.
"""

from lab.load.generator import LoadError, LoadGenerator
from lab.load.report import Failure, LoadReport, Request, SecondReport

__all__ = ["Failure", "LoadError", "LoadGenerator", "LoadReport", "Request", "SecondReport"]
