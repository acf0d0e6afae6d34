"""The webhook beside a naive one, measured in one run on this machine."""
