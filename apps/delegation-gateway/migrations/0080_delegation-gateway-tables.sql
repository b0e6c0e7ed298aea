-- Up Migration

-- The delegation gateway's own tables: tasks as their updates tell of them, and the events that streams show. Every key
-- starts with the tenant, row level security is forced (delivery rule 27).
create schema delegation_gateway;

-- A task that was submitted here, or one that was delegated elsewhere and is known by its updates alone.
-- seq        of the update that the row stands at; 0: none has come. What is not above it changes nothing.
-- body_hash  SHA-256 of the body that submitted it; null: it was not submitted here.
-- last_*     the place of its last event; pruned_*: the highest one that is no longer kept, resuming below it is 410.
-- answered_* the input that was given for the asking of that seq.
create table delegation_gateway.tasks (
  tenant text not null,
  task_id uuid not null,
  status text not null check (status in
    ('queued', 'running', 'input_required', 'completed', 'failed', 'cancelled', 'expired')),
  seq int not null default 0,
  attempt int not null default 0,
  target json not null,
  priority smallint not null,
  depth int not null,
  parent_task_id uuid,
  origin json,
  deadline_at timestamptz,
  callback_url text,
  webhook json,
  metadata json,
  body_hash bytea,
  progress text,
  result json,
  error json,
  submitted_at timestamptz not null,
  updated_at timestamptz not null,
  ended_at timestamptz,
  last_epoch int,
  last_position bigint,
  pruned_epoch int,
  pruned_position bigint,
  answered_seq int,
  answered_input_id uuid,
  answered_hash bytea,
  primary key (tenant, task_id)
);
create index tasks_listed on delegation_gateway.tasks (tenant, submitted_at, task_id);
create index tasks_by_status on delegation_gateway.tasks (tenant, status, submitted_at, task_id);
create index tasks_open on delegation_gateway.tasks (status) where ended_at is null;
create index tasks_ended on delegation_gateway.tasks (ended_at) where ended_at is not null;

-- (epoch, position) is the id of a stream's event: epoch setting and offset of its record in delegation.updates. data is the
-- text that is sent, so that a stream and a later one answer byte for byte the same.
create table delegation_gateway.task_events (
  tenant text not null,
  task_id uuid not null,
  epoch int not null,
  position bigint not null,
  event_id uuid not null,
  event_type text not null,
  data text not null,
  stored_at timestamptz not null default clock_timestamp(),
  primary key (tenant, task_id, epoch, position),
  unique (tenant, event_id)
);
create index task_events_age on delegation_gateway.task_events using brin (stored_at);

grant usage on schema delegation_gateway to signalbox_delegation_gateway;
select app.protect_tenant_table('delegation_gateway.tasks', 'select, insert, update', 'signalbox_delegation_gateway');
select app.protect_tenant_table('delegation_gateway.task_events', 'select, insert', 'signalbox_delegation_gateway');
alter table delegation_gateway.tasks set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
alter table delegation_gateway.task_events
  set (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);

-- Down Migration

drop schema delegation_gateway cascade;
