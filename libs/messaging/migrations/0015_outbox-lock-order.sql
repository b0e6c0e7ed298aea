-- Up Migration

-- Rows are locked in one order, by tenant and id: a relay and a fast path that delete the same rows, each in the order of
-- its acknowledgements, waited for each other in a circle (delivery rule 17).

-- As before. The join runs over the sorted rows, one look-up each: no row is locked before the one above it.
create or replace function messaging.outbox_delete(p_tenants text[], p_ids bigint[]) returns bigint
  language sql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  with sorted as materialized (
    select u.tenant, u.id from unnest(p_tenants, p_ids) as u(tenant, id) order by u.tenant collate "C", u.id),
  gone as (
    delete from messaging.outbox o using sorted u
    where o.tenant = u.tenant and o.id = u.id returning 1)
  select count(*) from gone
$$;

-- As before, with the rows locked first: they are found by key.
create or replace function messaging.outbox_give_up(p_writer uuid, p_topics text[], p_keys text[], p_from_ids bigint[])
  returns table (id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
  perform messaging.outbox_lock(p_topics, p_keys);
  return query
  with locked as materialized (
    select o.tenant, o.id
    from unnest(p_topics, p_keys, p_from_ids) as u(topic, key, from_id)
    join messaging.outbox o on o.slot = (messaging.key_hash(u.topic, u.key) & 63)::smallint
      and o.key_hash = messaging.key_hash(u.topic, u.key) and o.topic = u.topic and o.key = u.key
      and o.writer = p_writer and o.id >= u.from_id
    order by o.tenant collate "C", o.id for update of o
  )
  update messaging.outbox o set writer = null
  from locked l
  where o.tenant = l.tenant and o.id = l.id
  returning o.id;
end $$;

-- Down Migration
create or replace function messaging.outbox_give_up(p_writer uuid, p_topics text[], p_keys text[], p_from_ids bigint[])
  returns table (id bigint)
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
  perform messaging.outbox_lock(p_topics, p_keys);
  return query
  update messaging.outbox o set writer = null
  from unnest(p_topics, p_keys, p_from_ids) as u(topic, key, from_id)
  where o.slot = (messaging.key_hash(u.topic, u.key) & 63)::smallint
    and o.key_hash = messaging.key_hash(u.topic, u.key) and o.topic = u.topic and o.key = u.key
    and o.writer = p_writer and o.id >= u.from_id
  returning o.id;
end $$;

create or replace function messaging.outbox_delete(p_tenants text[], p_ids bigint[]) returns bigint
  language sql security definer set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
  set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
  with gone as (
    delete from messaging.outbox o using unnest(p_tenants, p_ids) as u(tenant, id)
    where o.tenant = u.tenant and o.id = u.id returning 1)
  select count(*) from gone
$$;
