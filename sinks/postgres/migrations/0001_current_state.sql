-- Current state: one row per VM and host, one small table per facet.
--
-- A change rewrites the head and the facets that changed, nothing else. No column that moves is indexed: an index on
-- one, even in a partial index's condition, ends heap-only updates and doubles the cost of a change. Fillfactor
-- leaves room for those updates between two vacuums. There are no foreign keys between tables fed by different topics.

CREATE TABLE vm (
    vm_id uuid PRIMARY KEY,
    incarnation int8 NOT NULL,
    version int8 NOT NULL,
    digest int8 NOT NULL,
    status text NOT NULL CONSTRAINT vm_status_known CHECK (status IN (
        'down', 'starting', 'powering_up', 'up', 'rebooting', 'powering_down', 'paused', 'migrating_from',
        'migrating_to', 'saving', 'restoring', 'suspended', 'crashed', 'not_responding', 'removed')),
    availability text NOT NULL CONSTRAINT vm_availability_known CHECK (availability IN ('known', 'unknown', 'conflict')),
    availability_reason text,
    availability_reasons text[] NOT NULL,
    availability_since timestamptz NOT NULL,
    host_id uuid,
    ownership_epoch int8 NOT NULL,
    run_id uuid,
    exit_status text,
    exit_reason text,
    exit_message text,
    cause text NOT NULL,
    observed_at timestamptz NOT NULL,
    detected_at timestamptz NOT NULL,
    run_status text,
    run_reason text,
    run_since timestamptz,
    run_process_id text,
    run_started_at timestamptz,
    run_exit_status text,
    run_exit_reason text,
    run_exit_message text,
    run_pause_reason text,
    run_pause_errno text,
    run_migration jsonb
) WITH (fillfactor = 70);
CREATE INDEX vm_host_id ON vm (host_id);
COMMENT ON TABLE vm IS 'Every VM now: its derived state, and its run facet (run_*) as the owning host said it.';
COMMENT ON COLUMN vm.incarnation IS 'One life of the row; identity and order of changes are (vm_id, incarnation, version).';
COMMENT ON COLUMN vm.digest IS 'state_digest of the last change: an unsigned 64-bit number stored as a signed one.';
COMMENT ON COLUMN vm.availability IS 'May the status be believed now; the reasons why not are in availability_reasons.';
COMMENT ON COLUMN vm.run_status IS 'What the host said; status is what was derived from it.';

CREATE TABLE vm_identity (
    vm_id uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    name text,
    cluster text,
    tags jsonb,
    vcpus int8,
    vcpus_max int8,
    memory_bytes int8,
    memory_max_bytes int8,
    machine text,
    persistent bool
) WITH (fillfactor = 70);
COMMENT ON TABLE vm_identity IS 'Facet identity: what the VM is, as its host defines it.';

CREATE TABLE vm_guest (
    vm_id uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    agent_connected bool,
    fqdn text,
    os jsonb,
    timezone text,
    session text,
    users jsonb,
    nics jsonb,
    ips_as_of timestamptz,
    stale bool
) WITH (fillfactor = 70);
COMMENT ON TABLE vm_guest IS 'Facet guest: what the guest agent says; stale when it is away.';

CREATE TABLE vm_console (
    vm_id uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    displays jsonb,
    client_ip text,
    client_since timestamptz
) WITH (fillfactor = 70);
COMMENT ON TABLE vm_console IS 'Facet console: displays and the connected client.';

CREATE TABLE vm_devices (
    vm_id uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    devices jsonb
) WITH (fillfactor = 70);
COMMENT ON TABLE vm_devices IS 'Facet devices: the virtual hardware, sorted by alias.';

CREATE TABLE vm_jobs (
    vm_id uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    jobs jsonb
) WITH (fillfactor = 70);
COMMENT ON TABLE vm_jobs IS 'Facet jobs: open block jobs; no row is unknown, an empty list is none.';

CREATE TABLE vm_numa (
    vm_id uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    cells jsonb,
    pinning jsonb
) WITH (fillfactor = 70);
COMMENT ON TABLE vm_numa IS 'Facet numa: guest cells and vCPU pinning.';

CREATE TABLE vm_watchdog (
    vm_id uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    last_at timestamptz,
    action text
) WITH (fillfactor = 70);
COMMENT ON TABLE vm_watchdog IS 'Facet watchdog: the last time the virtual watchdog fired.';

CREATE TABLE vm_managed (
    vm_id uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    fields jsonb NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE vm_managed IS 'Fields that only an intent changes; they outlive an incarnation.';

CREATE TABLE host (
    host_id uuid PRIMARY KEY,
    incarnation int8 NOT NULL,
    version int8 NOT NULL,
    digest int8 NOT NULL,
    reachability text NOT NULL CONSTRAINT host_reachability_known CHECK (reachability IN (
        'up', 'silent', 'agent_stopped', 'degraded', 'conflict', 'maintenance', 'fenced', 'unknown')),
    reachability_reason text,
    reachability_since timestamptz NOT NULL,
    reachability_mass bool NOT NULL,
    confirmed bool NOT NULL,
    flags text[] NOT NULL,
    machine_id uuid NOT NULL,
    boot_id uuid NOT NULL,
    agent_epoch uuid NOT NULL,
    cause text NOT NULL,
    observed_at timestamptz NOT NULL,
    detected_at timestamptz NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE host IS 'Every host now. Heartbeats do not reach this table: freshness is in the host.state topic.';

CREATE TABLE host_system (
    host_id uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    hostname text,
    os text,
    kernel text,
    hypervisor text,
    libvirt_version text,
    agent_version text
) WITH (fillfactor = 70);
COMMENT ON TABLE host_system IS 'Facet host_system: what the host is.';

CREATE TABLE host_capacity (
    host_id uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    cpu_model text,
    cpus int8,
    cpu_sockets int8,
    memory_bytes int8
) WITH (fillfactor = 70);
COMMENT ON TABLE host_capacity IS 'Facet host_capacity: what the host can carry.';

CREATE TABLE host_reachability (
    host_id uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    source_connected bool,
    reason text,
    since timestamptz
) WITH (fillfactor = 70);
COMMENT ON TABLE host_reachability IS 'Facet host_reachability: does the agent reach its source.';
