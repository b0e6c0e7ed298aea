-- Up Migration

-- Ids of messages that had their effect, for effects without a row of their own that is unique by message id
-- (delivery rule 11). Kept a day longer than the topic.
create table messaging.inbox (
  tenant     text not null,
  consumer   text not null,
  event_id   uuid not null,
  handled_at timestamptz not null default clock_timestamp(),
  primary key (tenant, consumer, event_id)
);
create index inbox_age on messaging.inbox using brin (handled_at);

-- Records that no consumer could handle, and rows that the broker refused. A record without a readable tenant is filed
-- under '_unknown', which no credential can have.
create table messaging.dead_letters (
  tenant        text not null,
  id            uuid not null,
  topic         text not null,
  partition     int not null,
  record_offset bigint not null,
  record_time   timestamptz not null,
  consumer      text not null,
  reason        text not null,
  detail        text not null,
  attempts      int not null,
  key           text,
  event_id      uuid,
  headers       jsonb not null,
  value         bytea,
  traceparent   text,
  created_at    timestamptz not null default clock_timestamp(),
  replayed_at   timestamptz,
  primary key (tenant, id),
  -- A record redelivered after its dead letter was stored is the same dead letter.
  unique (tenant, consumer, topic, partition, record_offset, record_time)
);
create index dead_letters_topic on messaging.dead_letters (topic) where replayed_at is null;

select app.protect_queue_table('messaging.inbox');
select app.protect_queue_table('messaging.dead_letters');

-- Enters the ids and returns the places (from 1) of those that were not there before: only these may be handled. Equal
-- ids in one call: the first one counts.
create function messaging.inbox_put(p_consumer text, p_tenants text[], p_event_ids uuid[]) returns table (ord int)
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with input as (
    select u.tenant, u.event_id, min(u.ord)::int as ord
    from unnest(p_tenants, p_event_ids) with ordinality as u(tenant, event_id, ord)
    group by u.tenant, u.event_id
  ),
  entered as (
    insert into messaging.inbox (tenant, consumer, event_id)
    select i.tenant, p_consumer, i.event_id from input i order by i.tenant, i.event_id
    on conflict do nothing returning tenant, event_id
  )
  select i.ord from entered e join input i on i.tenant = e.tenant and i.event_id = e.event_id order by i.ord
$$;

create function messaging.inbox_forget(p_consumer text, p_older_than interval, p_limit int) returns bigint
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  with gone as (
    delete from messaging.inbox i where (i.tenant, i.consumer, i.event_id) in (
      select o.tenant, o.consumer, o.event_id from messaging.inbox o
      where o.consumer = p_consumer and o.handled_at < clock_timestamp() - p_older_than limit p_limit)
    returning 1)
  select count(*) from gone
$$;

-- Stores a dead letter; null when it was stored before.
create function messaging.dead_letter_put(
  p_tenant text, p_id uuid, p_topic text, p_partition int, p_record_offset bigint, p_record_time timestamptz,
  p_consumer text, p_reason text, p_detail text, p_attempts int, p_key text, p_event_id uuid, p_headers jsonb,
  p_value bytea, p_traceparent text) returns uuid
  language sql security definer set search_path = pg_catalog, pg_temp
as $$
  insert into messaging.dead_letters (tenant, id, topic, partition, record_offset, record_time, consumer, reason, detail,
    attempts, key, event_id, headers, value, traceparent)
  values (p_tenant, p_id, p_topic, p_partition, p_record_offset, p_record_time, p_consumer, p_reason, p_detail,
    p_attempts, p_key, p_event_id, p_headers, p_value, p_traceparent)
  on conflict do nothing returning id
$$;

-- Dead letters that nobody has replayed yet, by topic.
create function messaging.dead_letter_depth() returns table (topic text, depth bigint)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select d.topic, count(*) from messaging.dead_letters d where d.replayed_at is null group by d.topic
$$;

select app.protect_queue_functions('messaging',
  'signalbox_gateway', 'signalbox_conversation_worker', 'signalbox_tool_executor', 'signalbox_outbox_sync');

-- Down Migration
drop function messaging.dead_letter_depth, messaging.dead_letter_put, messaging.inbox_forget, messaging.inbox_put;
drop table messaging.dead_letters, messaging.inbox;
