"""The verbs of the command line. torch is imported inside them, so that --help answers at once."""
