"""The compiled kernels behind Python fronts that check every argument; all of it is optional."""
