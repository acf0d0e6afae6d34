"""What the product renders, whole; `tests.goldens` says how the files are updated."""
