"""Presets of NCCL's network variables, by the name of the network between the nodes: `cluster.fabric`.

Names and meanings are those of NVIDIA's NCCL User Guide ("Environment Variables"), libfabric's fi_provider(7) and fi_efa(7).
NCCL takes the fastest network that it finds and otherwise TCP, without a word. A preset names one network, so a job on a
node without it ends with an error in the first collective.
"""

from __future__ import annotations

# NCCL opens its connections over an IP interface. These prefixes are those of a single machine: two nodes may have the same
# address there and wait for each other.
INTERFACES = {"NCCL_SOCKET_IFNAME": "^lo,docker,virbr,veth"}

FABRICS: dict[str, dict[str, str]] = {
    # TCP over Ethernet, also on nodes whose InfiniBand is broken or reserved for storage
    "socket": {"NCCL_NET": "Socket", "NCCL_IB_DISABLE": "1", **INTERFACES},
    # InfiniBand or RoCE. NCCL takes every adapter, unless NCCL_IB_HCA in `environment` names some
    "ib": {"NCCL_NET": "IB", "NCCL_IB_DISABLE": "0", **INTERFACES},
    # EFA of AWS, through the plugin aws-ofi-nccl, whose name this is. The last two are for libfabric before 1.18 and Linux
    # before 5.15, and change nothing on newer ones
    "efa": {
        "NCCL_NET": "AWS Libfabric",
        "FI_PROVIDER": "efa",
        "FI_EFA_USE_DEVICE_RDMA": "1",
        "FI_EFA_FORK_SAFE": "1",
        **INTERFACES,
    },
}
