"""The webhook and its manifests against a real etcd and kube-apiserver. Pods are stored, never run."""
