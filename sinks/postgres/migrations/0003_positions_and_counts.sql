-- Positions of the sink in its topics, written in the transaction of the rows; and the fleet's counters.

CREATE TABLE sink_position (
    topic text NOT NULL,
    part int4 NOT NULL,
    epoch int8 NOT NULL,
    next_offset int8 NOT NULL,
    topic_id uuid NOT NULL,
    PRIMARY KEY (topic, part)
) WITH (fillfactor = 50);
COMMENT ON TABLE sink_position IS 'Where the sink goes on reading. Only the process that raised epoch last may move it.';

CREATE TABLE fleet_count (
    part int4 NOT NULL,
    status text NOT NULL,
    availability text NOT NULL,
    n int8 NOT NULL,
    PRIMARY KEY (part, status, availability)
) WITH (fillfactor = 50);
COMMENT ON TABLE fleet_count IS 'VMs by Kafka partition, status and availability, kept by every write to vm; sum over part.';
