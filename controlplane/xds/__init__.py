"""What a control plane tells Envoy while it runs: the cluster in our words, and in Envoy's, to whoever asks."""
