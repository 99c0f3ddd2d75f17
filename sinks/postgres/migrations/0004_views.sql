-- Views for readers. Columns are added at the end only, so that a reader's query keeps its meaning.

CREATE VIEW vm_overview AS
SELECT v.vm_id, i.name, v.status, v.availability, v.availability_reason, v.host_id, s.hostname AS host_name,
       i.cluster, i.vcpus, i.memory_bytes, g.fqdn, g.agent_connected, v.run_started_at AS started_at,
       v.run_pause_reason AS pause_reason, v.exit_status, v.exit_reason, v.incarnation, v.version,
       v.observed_at, v.detected_at
FROM vm v
LEFT JOIN vm_identity i ON i.vm_id = v.vm_id
LEFT JOIN vm_guest g ON g.vm_id = v.vm_id
LEFT JOIN host_system s ON s.host_id = v.host_id;
COMMENT ON VIEW vm_overview IS 'One row per VM with what a list of VMs shows; columns not asked for cost nothing.';

CREATE VIEW host_overview AS
SELECT h.host_id, s.hostname, h.reachability, h.reachability_reason, h.reachability_since, h.confirmed, h.flags,
       c.cpus, c.memory_bytes, s.hypervisor, s.agent_version,
       (SELECT count(*) FROM vm v WHERE v.host_id = h.host_id AND v.status <> 'removed') AS vms,
       h.incarnation, h.version, h.observed_at, h.detected_at
FROM host h
LEFT JOIN host_system s ON s.host_id = h.host_id
LEFT JOIN host_capacity c ON c.host_id = h.host_id;
COMMENT ON VIEW host_overview IS 'One row per host with what a list of hosts shows.';

CREATE VIEW vm_guest_nic AS
SELECT g.vm_id, n.nic ->> 'name' AS name, n.nic ->> 'mac' AS mac, n.nic -> 'ipv4' AS ipv4, n.nic -> 'ipv6' AS ipv6,
       g.ips_as_of, g.stale
FROM vm_guest g CROSS JOIN LATERAL jsonb_array_elements(g.nics) AS n (nic);
COMMENT ON VIEW vm_guest_nic IS 'One row per network interface that a guest sees.';

CREATE VIEW vm_device AS
SELECT d.vm_id, n.device ->> 'alias' AS alias, n.device ->> 'class' AS class, n.device ->> 'address' AS address,
       n.device ->> 'model' AS model, n.device ->> 'backend' AS backend, n.device ->> 'target' AS target,
       n.device ->> 'mac' AS mac, n.device ->> 'serial' AS serial,
       coalesce((n.device ->> 'plugged')::bool, true) AS plugged
FROM vm_devices d CROSS JOIN LATERAL jsonb_array_elements(d.devices) AS n (device);
COMMENT ON VIEW vm_device IS 'One row per virtual device.';

CREATE VIEW fleet_summary AS
SELECT status, availability, sum(n)::int8 AS vms FROM fleet_count GROUP BY status, availability HAVING sum(n) <> 0;
COMMENT ON VIEW fleet_summary IS 'VMs by status and availability, from counters: it never scans the VMs.';

CREATE FUNCTION vm_as_of(at timestamptz) RETURNS SETOF vm_change LANGUAGE sql STABLE AS $$
    SELECT last.*
    FROM vm v CROSS JOIN LATERAL (
        SELECT c.* FROM vm_change c
        WHERE c.vm_id = v.vm_id AND c.detected_at <= at
        ORDER BY c.detected_at DESC, c.incarnation DESC, c.version DESC
        LIMIT 1
    ) last
$$;
COMMENT ON FUNCTION vm_as_of(timestamptz) IS
    'The last change of every VM at or before a time: what was known of the fleet then, by the log''s own clock.';
