"""Raw fingerprints and the order-free digest by which agent and stage prove that they agree.

A raw fingerprint covers the facet's bytes as they travelled; the digest of a host is the sum of the low 64 bits over
everything it has reported, VMs' facets under their id, host facets and storage claims under an empty one.
"""

import xxhash

U64 = (1 << 64) - 1

NO_VM = b""
"""Stands for the VM in fingerprints of host facets and storage claims."""


def raw_fingerprint(vm_id: bytes, facet: str, data: bytes) -> bytes:
    """16-byte xxh3_128 over (vm_id, facet name, bytes); a zero byte ends the name, so parts can not run together."""
    return xxhash.xxh3_128_digest(vm_id + facet.encode("ascii") + b"\0" + data)


def low64(fingerprint: bytes) -> int:
    """Low 64 bits of a 128-bit fingerprint (its last eight bytes, as xxh3 writes them big-endian)."""
    return int.from_bytes(fingerprint[8:], "big")


def storage_facet(domain: str) -> str:
    """Name under which the claim about a storage domain counts in the digest."""
    return f"storage_claim/{domain}"
