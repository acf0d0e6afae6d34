"""The cluster, told to Envoy: the bootstrap every sidecar starts from, and later the routes it follows."""
