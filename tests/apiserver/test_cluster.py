from tests.apiserver.binaries import kubernetes_version
from tests.apiserver.cluster import Cluster


def test_the_api_server_is_the_pinned_release(kubernetes: Cluster) -> None:
    version = kubernetes.kubectl("version", "-o", "json").object
    assert version["serverVersion"]["gitVersion"] == kubernetes_version()
