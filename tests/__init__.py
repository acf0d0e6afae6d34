"""The product's promises, each checked as close to the real parts as this machine allows."""
