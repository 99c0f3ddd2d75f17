-- History: every change, whole, in partitions of one UTC day by detected_at.
--
-- No primary key: the guard on the head (same incarnation, version = first - 1, same digest) and the fence on
-- sink_position already prove that each change is stored once, and a key of (vm_id, incarnation, version,
-- detected_at) is the dearest index at scale. (vm_id, detected_at) serves readers: partitions are ordered by it too.

CREATE TABLE vm_change (
    vm_id uuid NOT NULL,
    incarnation int8 NOT NULL,
    version int8 NOT NULL,
    detected_at timestamptz NOT NULL,
    observed_at timestamptz NOT NULL,
    availability_since timestamptz NOT NULL,
    ownership_epoch int8 NOT NULL,
    previous_digest int8 NOT NULL,
    state_digest int8 NOT NULL,
    evidence_log int8 NOT NULL,
    evidence_offset int8 NOT NULL,
    evidence_partition int4 NOT NULL,
    rules_version int4 NOT NULL,
    facet_mask int2 NOT NULL,
    cause text NOT NULL,
    status text NOT NULL,
    availability text NOT NULL,
    availability_reason text,
    availability_reasons text[] NOT NULL,
    host_id uuid,
    run_id uuid,
    exit_status text,
    exit_reason text,
    exit_message text,
    evidence_topic text NOT NULL,
    evidence_host uuid,
    evidence_boot uuid,
    evidence_seq int8,
    evidence_tick int8,
    intent_id text,
    facets jsonb NOT NULL,
    managed jsonb
) PARTITION BY RANGE (detected_at);
CREATE INDEX vm_change_vm_id_detected_at ON vm_change (vm_id, detected_at);
COMMENT ON TABLE vm_change IS 'Every change of every VM, once; never rewritten. The change id is vm_id:incarnation:version.';
COMMENT ON COLUMN vm_change.facets IS 'By facet: before (changed fields only), after (whole; null: cleared), changed.';
COMMENT ON COLUMN vm_change.facet_mask IS 'Facets in this change: 1 identity, 2 run, 4 guest, 8 console, 16 devices, 32 jobs, 64 numa, 128 watchdog.';
COMMENT ON COLUMN vm_change.evidence_offset IS 'With topic, log and partition: where the evidence stands in the agents'' reports.';

CREATE TABLE host_change (
    host_id uuid NOT NULL,
    incarnation int8 NOT NULL,
    version int8 NOT NULL,
    detected_at timestamptz NOT NULL,
    observed_at timestamptz NOT NULL,
    reachability_since timestamptz NOT NULL,
    previous_digest int8 NOT NULL,
    state_digest int8 NOT NULL,
    evidence_log int8 NOT NULL,
    evidence_offset int8 NOT NULL,
    evidence_partition int4 NOT NULL,
    rules_version int4 NOT NULL,
    facet_mask int2 NOT NULL,
    reachability_mass bool NOT NULL,
    confirmed bool NOT NULL,
    machine_id uuid NOT NULL,
    boot_id uuid NOT NULL,
    agent_epoch uuid NOT NULL,
    cause text NOT NULL,
    reachability text NOT NULL,
    reachability_reason text,
    flags text[] NOT NULL,
    evidence_topic text NOT NULL,
    evidence_host uuid,
    evidence_boot uuid,
    evidence_seq int8,
    evidence_tick int8,
    facets jsonb NOT NULL
) PARTITION BY RANGE (detected_at);
CREATE INDEX host_change_host_id_detected_at ON host_change (host_id, detected_at);
COMMENT ON COLUMN vm_change.evidence_tick IS 'The tick that let a duration run out; null when somebody said it.';
COMMENT ON TABLE host_change IS 'Every change of every host, once. Cause gap: evidence was lost before it was read.';
COMMENT ON COLUMN host_change.facet_mask IS 'Facets in this change: 1 host_system, 2 host_capacity, 4 host_reachability.';

CREATE FUNCTION ensure_partitions(first_day date, last_day date) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    parent text;
    child text;
    day date;
    made int := 0;
BEGIN
    IF last_day - first_day NOT BETWEEN 0 AND 400 THEN
        RAISE EXCEPTION 'ensure_partitions: % to % is not a span of 1 to 401 days', first_day, last_day
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Two sinks may meet a new day at the same moment.
    PERFORM pg_advisory_xact_lock(hashtext('deltavisor.ensure_partitions'));
    FOREACH parent IN ARRAY ARRAY['vm_change', 'host_change'] LOOP
        FOR day IN SELECT generate_series(first_day, last_day, interval '1 day')::date LOOP
            child := parent || to_char(day, '_YYYYMMDD');
            CONTINUE WHEN to_regclass(quote_ident(child)) IS NOT NULL;
            -- Made apart and attached: CREATE ... PARTITION OF would wait for, and block, every COPY.
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL EXCLUDING INDEXES)', child, parent);
            EXECUTE format(
                'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                parent, child, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
REVOKE ALL ON FUNCTION ensure_partitions(date, date) FROM PUBLIC;
COMMENT ON FUNCTION ensure_partitions(date, date) IS
    'Makes the missing day partitions of the histories (UTC days, both ends included); returns how many. Safe to repeat.';
