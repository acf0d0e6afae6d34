"""What only time and numbers show, one module for each scenario. Each has a short form, which the suite runs."""
