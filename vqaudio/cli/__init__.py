"""The command line: `main`, one file per verb, and what the verbs share (`console`)."""
