"""The images that the Dockerfile describes, built and run."""
