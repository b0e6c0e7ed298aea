-- Up Migration

-- The gateway's own tables. Every key starts with the tenant, row level security is forced (DELIVERY 27). There are no
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

-- Only accepted requests leave a row, in the transaction of their effect (DELIVERY 24).
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

do $$
declare v_table text;
begin
  foreach v_table in array array['personas', 'sessions', 'messages', 'session_events', 'idempotency_keys', 'tools'] loop
    execute format('alter table gateway.%I enable row level security', v_table);
    execute format('alter table gateway.%I force row level security', v_table);
    execute format(
      $policy$create policy tenant_rows on gateway.%I
        using (tenant = nullif(current_setting('app.tenant', true), ''))
        with check (tenant = nullif(current_setting('app.tenant', true), ''))$policy$, v_table);
    -- Idempotency keys and messages come and go at the rate of requests: vacuum by count, not by share of a big table.
    execute format(
      'alter table gateway.%I set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000)', v_table);
  end loop;
end $$;

grant usage on schema gateway to signalbox_gateway;
grant select on gateway.personas to signalbox_gateway;
grant select, insert, update on gateway.sessions, gateway.messages, gateway.tools to signalbox_gateway;
grant select, insert on gateway.session_events, gateway.idempotency_keys to signalbox_gateway;

-- Down Migration

drop schema gateway cascade;
