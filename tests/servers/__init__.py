"""Real servers on 127.0.0.1, which the tests start themselves."""
