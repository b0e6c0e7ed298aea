-- Up Migration

-- How many bytes of rows one read gives at most, but for its first row. A few hundred rows of 900 kB were more than the
-- statement's time and the reader's memory.
create function messaging.outbox_read_bytes() returns bigint language sql immutable parallel safe return 16 * 1024 * 1024;

-- As before, and at most outbox_read_bytes: the keys of a read come one after the other, each from its lowest row on, until
-- the bytes are spent. Keys with the oldest rows first, so that none waits behind the large rows of others for ever. What
-- is left out is the next read's. The size of a value is known without reading it.
create or replace function messaging.outbox_stale(p_slots smallint[], p_older_than_ms int, p_limit int, p_not_topics text[])
  returns table (tenant text, id bigint, topic text, key text, event_id uuid, headers jsonb, value bytea, enqueued_at timestamptz)
  language plpgsql stable security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
  return query
  with stale as materialized (
    select s.slot, s.key_hash, s.topic, s.key, min(s.id) as first from (
      (select o.slot, o.key_hash, o.topic, o.key, o.id from messaging.outbox o
       where o.writer is null and o.slot = any(p_slots) and not (o.topic = any(p_not_topics)) limit p_limit)
      union all
      (select o.slot, o.key_hash, o.topic, o.key, o.id from messaging.outbox o
       where o.slot = any(p_slots) and o.enqueued_at < clock_timestamp() - make_interval(secs => p_older_than_ms / 1000.0)
         and not (o.topic = any(p_not_topics))
       limit p_limit)) s
    group by s.slot, s.key_hash, s.topic, s.key
  ),
  share as materialized (select greatest(p_limit / greatest(count(*), 1), 4) as rows from stale)
  select s.tenant, s.id, s.topic, s.key, s.event_id, s.headers, s.value, s.enqueued_at
  from (
    select r.*, k.first,
      sum(coalesce(octet_length(r.value), 0) + octet_length(r.headers::text))
        over (order by k.first, r.id rows between unbounded preceding and 1 preceding) as before
    from stale k
    cross join lateral (
      select x.* from messaging.outbox x
      where x.slot = k.slot and x.key_hash = k.key_hash and x.topic = k.topic and x.key = k.key
      order by x.id limit (select rows from share)) r) s
  where coalesce(s.before, 0) < messaging.outbox_read_bytes()
  order by s.first, s.id;
end $$;

-- As before, and at most outbox_read_bytes.
create or replace function messaging.outbox_foreign_rows(p_writer uuid, p_topic text, p_key text, p_limit int)
  returns table (tenant text, id bigint, topic text, key text, event_id uuid, headers jsonb, value bytea, enqueued_at timestamptz)
  language sql stable security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  select s.tenant, s.id, s.topic, s.key, s.event_id, s.headers, s.value, s.enqueued_at
  from (
    select r.*, sum(coalesce(octet_length(r.value), 0) + octet_length(r.headers::text))
        over (order by r.id rows between unbounded preceding and 1 preceding) as before
    from (
      select o.* from messaging.outbox o
      where o.slot = (messaging.key_hash(p_topic, p_key) & 63)::smallint
        and o.key_hash = messaging.key_hash(p_topic, p_key) and o.topic = p_topic and o.key = p_key
        and o.writer is distinct from p_writer
      order by o.id limit p_limit) r) s
  where coalesce(s.before, 0) < messaging.outbox_read_bytes()
  order by s.id
$$;

-- Down Migration
create or replace function messaging.outbox_foreign_rows(p_writer uuid, p_topic text, p_key text, p_limit int)
  returns table (tenant text, id bigint, topic text, key text, event_id uuid, headers jsonb, value bytea, enqueued_at timestamptz)
  language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select o.tenant, o.id, o.topic, o.key, o.event_id, o.headers, o.value, o.enqueued_at
  from messaging.outbox o
  where o.slot = (messaging.key_hash(p_topic, p_key) & 63)::smallint
    and o.key_hash = messaging.key_hash(p_topic, p_key) and o.topic = p_topic and o.key = p_key
    and o.writer is distinct from p_writer
  order by o.id limit p_limit
$$;

create or replace function messaging.outbox_stale(p_slots smallint[], p_older_than_ms int, p_limit int, p_not_topics text[])
  returns table (tenant text, id bigint, topic text, key text, event_id uuid, headers jsonb, value bytea, enqueued_at timestamptz)
  language plpgsql stable security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
  return query
  with stale as materialized (
    select distinct s.slot, s.key_hash, s.topic, s.key from (
      (select o.slot, o.key_hash, o.topic, o.key from messaging.outbox o
       where o.writer is null and o.slot = any(p_slots) and not (o.topic = any(p_not_topics)) limit p_limit)
      union all
      (select o.slot, o.key_hash, o.topic, o.key from messaging.outbox o
       where o.slot = any(p_slots) and o.enqueued_at < clock_timestamp() - make_interval(secs => p_older_than_ms / 1000.0)
         and not (o.topic = any(p_not_topics))
       limit p_limit)) s
  ),
  share as materialized (select greatest(p_limit / greatest(count(*), 1), 4) as rows from stale)
  select r.tenant, r.id, r.topic, r.key, r.event_id, r.headers, r.value, r.enqueued_at
  from stale k
  cross join lateral (
    select x.* from messaging.outbox x
    where x.slot = k.slot and x.key_hash = k.key_hash and x.topic = k.topic and x.key = k.key
    order by x.id limit (select rows from share)) r;
end $$;
drop function messaging.outbox_read_bytes;
