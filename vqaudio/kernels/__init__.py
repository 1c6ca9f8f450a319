"""The compiled kernels (C++) behind Python functions that check every argument; all of them are optional."""
