"""The command line: `main`, one file per verb, and shared flags and output functions (`console`)."""
