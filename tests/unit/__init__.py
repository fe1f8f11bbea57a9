"""One file of tests for each file of the source, in process."""
