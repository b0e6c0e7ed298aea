-- Up Migration

-- The gateway's own tables. Every key starts with the tenant, row level security is forced (delivery rule 27). There are no
-- foreign keys: each would lock its session's row at every insert, and nothing here is deleted apart from its session.
create schema if not exists gateway;

-- Which personas a message may name. Written by `npm run seed` and, later, by the config service.
create table gateway.personas (
  tenant text not null,
  persona_id text not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (tenant, persona_id)
);

-- A session is made only by a POST without an id. Ids are UUIDv7: their order is the order of creation.
-- pruned_*: the highest stream position that is no longer kept; resuming below it is 410.
create table gateway.sessions (
  tenant text not null,
  session_id uuid not null,
  persona_id text not null,
  created_at timestamptz not null default clock_timestamp(),
  pruned_epoch int,
  pruned_position bigint,
  primary key (tenant, session_id)
);

-- One row is a posted message and the turn that answers it. Open until the turn's terminal event has come, whose
-- place in the stream it then keeps: history reads message and answer without a second index.
create table gateway.messages (
  tenant text not null,
  session_id uuid not null,
  turn_id uuid not null,
  event_id uuid not null,
  body json not null,
  accepted_at timestamptz not null default clock_timestamp(),
  ended_at timestamptz,
  end_epoch int,
  end_position bigint,
  primary key (tenant, session_id, turn_id)
);
create index messages_open on gateway.messages (tenant, session_id, accepted_at) where ended_at is null;

-- What a client sees, without the deltas. (epoch, position) is the id of its stream entry: epoch setting and Kafka offset.
-- data is the text that is sent, so that a stream and a refill from here answer byte for byte the same.
create table gateway.session_events (
  tenant text not null,
  session_id uuid not null,
  epoch int not null,
  position bigint not null,
  event_id uuid not null,
  event_type text not null,
  data text not null,
  stored_at timestamptz not null default clock_timestamp(),
  primary key (tenant, session_id, epoch, position),
  unique (tenant, event_id)
);
create index session_events_age on gateway.session_events using brin (stored_at);

-- Only accepted requests leave a row, in the transaction of their effect (delivery rule 24).
create table gateway.idempotency_keys (
  tenant text not null,
  route text not null,
  key text not null,
  body_hash bytea not null,
  event_id uuid not null,
  answer json not null,
  created_at timestamptz not null default clock_timestamp(),
  primary key (tenant, route, key)
);
create index idempotency_keys_age on gateway.idempotency_keys using brin (created_at);

-- The gateway's copy of the compacted topic tool.catalog. catalog_offset makes a redelivered or late record a no-op.
create table gateway.tools (
  tenant text not null,
  name text not null,
  description text not null,
  parameters json not null,
  idempotent boolean not null,
  timeout_ms int not null,
  enabled boolean not null,
  version int not null,
  removed boolean not null default false,
  catalog_offset bigint not null,
  primary key (tenant, name)
);

grant usage on schema gateway to signalbox_gateway;
select app.protect_tenant_table('gateway.personas', 'select', 'signalbox_gateway');
select app.protect_tenant_table('gateway.sessions', 'select, insert, update', 'signalbox_gateway');
select app.protect_tenant_table('gateway.messages', 'select, insert, update', 'signalbox_gateway');
select app.protect_tenant_table('gateway.session_events', 'select, insert', 'signalbox_gateway');
select app.protect_tenant_table('gateway.idempotency_keys', 'select, insert', 'signalbox_gateway');
select app.protect_tenant_table('gateway.tools', 'select, insert, update', 'signalbox_gateway');

-- These grow and shrink at the rate of requests: vacuumed by a count of rows, not by a share of a big table.
alter table gateway.messages set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
alter table gateway.session_events set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
alter table gateway.idempotency_keys set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);

-- Down Migration

drop schema gateway cascade;
