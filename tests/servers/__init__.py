"""The real counterparts of the handlers, run on 127.0.0.1 by the tests themselves."""
